//! Growing and shrinking, live, with the footer page moving along.
//!
//! One batch: the new size, the base limit cut to it for good, the old footer page and everything cut off as zero, the
//! new footer page. So shrinking and growing again never shows old content, of a layer or of the base.

use crate::disk::commit::log::Op;
use crate::disk::core::Core;
use crate::disk::create::check_size;
use crate::disk::stack::extent_map::Mark;
use crate::disk::stack::layer::Layer;
use crate::io::mutant;
use crate::vhd::Footer;
use crate::{PAGE, Result};

impl Core {
    /// Whether a record accounts for all that `layer` stores from `page` on, behind the end of the disk.
    pub(crate) fn is_accounted_beyond(&self, layer: &Layer, page: u64) -> Result<bool> {
        let state = self.stack.state();
        let Some(index) = state.index_of(layer.id).filter(|_| !state.dead_known) else { return Ok(true) };
        let entry = &state.entries[index];
        Ok(layer.stored_from(page, &mut |page| !entry.accounts_for(page))? == 0)
    }

    /// Makes the disk `size` bytes long (without the footer page); durable when this returns.
    pub(crate) fn resize(&self, size: u64) -> Result<()> {
        check_size(size)?;
        self.check_writable()?;
        let new = size / PAGE as u64 + u64::from(self.footer);
        let footer = {
            let settings = self.settings();
            Footer::fixed(size, settings.uuid, settings.created).to_bytes()
        };
        loop {
            // Three marks, once for all: a round first if there is no room for them.
            let Some(_reserved) = self.reserve() else {
                self.make_room()?;
                continue;
            };
            let table = self.arm_and_hold()?;
            if self.stack.state().size == new {
                // Perhaps by another that is not durable yet.
                if mutant!(SameSizeNotFlushed) {
                    return Ok(());
                }
                break;
            }
            let top = self.stack.gate().top().cloned();
            let Some(top) = top else {
                drop(table);
                self.make_layer()?;
                continue;
            };
            // Nothing reads there before the size says so; the file is long enough, durably, before any record.
            if top.pages()? < new {
                top.resize(new, self.commit.poison())?;
            }
            // The footer may land where an earlier one was left to be punched.
            let last = new - 1;
            let lock = self.stack.lock_exclusive(last..new);
            // Until the new size is durable the old one is, with what that page holds: in place a footer would destroy
            // it. So it goes to a layer that does not hold the page, durably neither.
            let (held, is_durable) = {
                let state = self.stack.state();
                (state.holds(top.id, &(last..new)), state.is_durable(&(last..new)))
            };
            if self.footer && (held || !is_durable) {
                drop((lock, table));
                if held {
                    self.rotate_key()?
                } else {
                    self.flush()?
                }
                continue;
            }
            let gate = self.stack.gate_exclusive(&table);
            gate.check_open()?;
            let old = self.stack.state().size;
            if self.footer {
                let written = top.write(last, &footer, true);
                let mut state = self.stack.state_mut();
                top.mark_dirty();
                if let Err(error) = written {
                    state.write_failed(top.id, last..new);
                    return Err(error);
                }
            }
            let mut state = self.stack.state_mut();
            let hides_base = !mutant!(ShrinkKeepsBase);
            let limit = if hides_base { new - u64::from(self.footer) } else { u64::MAX };
            let base_limit = state.base_limit.min(limit);
            let cut = if self.footer { last.min(old - 1) } else { new.min(old) };
            if hides_base {
                state.publish(top.id, cut..old.max(new), Mark::Zero);
            }
            if self.footer {
                state.publish(top.id, last..new, Mark::Held);
            }
            self.stack.set_size(&gate, &mut state, new, base_limit);
            state.pending.ops.push(Op::Resize { size: new, base_limit });
            break;
        }
        self.flush()
    }
}
