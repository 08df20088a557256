//! Which arguments of a system call a filter lets pass.
//!
//! A filter sees the registers of a call and nothing behind a pointer. So a call that takes an address, a flag or a
//! process in memory cannot be let pass in part: it is let pass whole or not at all.

use seccompiler::{Result, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition, SeccompRule};

/// Namespaces, and being traced with the parent: nothing that a thread takes.
pub(super) const NEVER_OF_A_THREAD: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS
    | libc::CLONE_PARENT
    | libc::CLONE_PTRACE;

/// One argument of a call, by its index.
#[derive(Debug, Clone)]
pub(super) struct Argument {
    index: u8,
    width: Width,
    is: Is,
    value: u64,
}

impl Argument {
    /// An `int` is `value`: the kernel reads 32 bits of it.
    pub(super) fn is(index: u8, value: libc::c_int) -> Self {
        Self { index, width: Width::Dword, is: Is::Eq, value: bits(value) }
    }

    /// Of the bits in `mask` exactly those of `value` are set.
    pub(super) fn masked(index: u8, mask: libc::c_int, value: libc::c_int) -> Self {
        Self { index, width: Width::Dword, is: Is::MaskedEq(bits(mask)), value: bits(value) }
    }

    /// An `int` is less than `value`.
    pub(super) fn below(index: u8, value: libc::c_int) -> Self {
        Self { index, width: Width::Dword, is: Is::Lt, value: bits(value) }
    }

    /// An `int` is anything but `value`.
    pub(super) fn unlike(index: u8, value: libc::c_int) -> Self {
        Self { index, width: Width::Dword, is: Is::Ne, value: bits(value) }
    }

    /// A pointer is null: all 64 bits of it.
    pub(super) fn null(index: u8) -> Self {
        Self { index, width: Width::Qword, is: Is::Eq, value: 0 }
    }
}

/// Lets a call pass whose arguments all fit.
pub(super) fn all_of<const N: usize>(arguments: [Argument; N]) -> Result<Vec<SeccompRule>> {
    let mut conditions = Vec::with_capacity(N);
    for Argument { index, width, is, value } in arguments {
        conditions.push(SeccompCondition::new(index, width, is, value)?);
    }
    Ok(vec![SeccompRule::new(conditions)?])
}

/// Lets a call pass whose `int` at `index` is one of `values`.
pub(super) fn one_of<const N: usize>(index: u8, values: [libc::c_int; N]) -> Result<Vec<SeccompRule>> {
    let rules = values.map(|value| all_of([Argument::is(index, value)]));
    Ok(rules.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// A mask, flag or number as the filter compares it: 32 bits.
fn bits(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}
