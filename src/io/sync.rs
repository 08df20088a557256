//! Locks and waiting of the core: `parking_lot` in the product, the deterministic scheduler `shuttle` under the
//! `--cfg sealdisk_sim`, with one interface. Locks are never poisoned here: a panic in the core ends the process or the
//! test.

#[cfg(not(sealdisk_sim))]
mod imp {
    pub use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub use std::sync::atomic;

    /// Whether no thread may be started here, because the only one there is is simulated.
    #[must_use]
    pub const fn is_alone() -> bool {
        false
    }

    /// A condition variable; [`Condvar::wait`] takes and returns the guard.
    #[derive(Debug, Default)]
    pub struct Condvar(parking_lot::Condvar);

    impl Condvar {
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }
        pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(&mut guard);
            guard
        }
        /// Waits until it is woken, or until `deadline`; now and then for a shorter time.
        pub fn wait_until<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            deadline: std::time::Instant,
        ) -> MutexGuard<'a, T> {
            self.0.wait_until(&mut guard, deadline);
            guard
        }
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

#[cfg(sealdisk_sim)]
mod imp {
    //! Each type is a plain lock behind a gate of the scheduler's. A thread in *direct* mode (see
    //! [`crate::io::sim::direct`]) passes by the gates: it works alone on a disk of its own, at full speed, and a lock
    //! that it would have to wait for is a deadlock. A gate is made when it is first passed, so most of those of a disk
    //! that lives for one crash image never are.

    use std::ops::{Deref, DerefMut};
    use std::sync::{OnceLock, PoisonError, TryLockError};

    use shuttle::sync as gated;

    use crate::io::sim::is_direct;
    pub use crate::io::sim::is_direct as is_alone;

    pub mod atomic {
        //! Each access is a scheduling point.

        pub use std::sync::atomic::Ordering;

        macro_rules! scheduled {
            ($name:ident, $value:ty $(, $arithmetic:ident)*) => {
                #[derive(Debug, Default)]
                pub struct $name(std::sync::atomic::$name);

                impl $name {
                    pub const fn new(value: $value) -> Self {
                        Self(std::sync::atomic::$name::new(value))
                    }
                    pub fn load(&self, order: Ordering) -> $value {
                        crate::io::sim::point();
                        self.0.load(order)
                    }
                    pub fn store(&self, value: $value, order: Ordering) {
                        crate::io::sim::point();
                        self.0.store(value, order);
                    }
                    pub fn swap(&self, value: $value, order: Ordering) -> $value {
                        crate::io::sim::point();
                        self.0.swap(value, order)
                    }
                    $(pub fn $arithmetic(&self, value: $value, order: Ordering) -> $value {
                        crate::io::sim::point();
                        self.0.$arithmetic(value, order)
                    })*
                }
            };
        }

        scheduled!(AtomicBool, bool, fetch_or, fetch_and);
        scheduled!(AtomicU32, u32, fetch_add, fetch_sub, fetch_max);
        scheduled!(AtomicU64, u64, fetch_add, fetch_sub, fetch_max);
        scheduled!(AtomicUsize, usize, fetch_add, fetch_sub, fetch_max);
    }

    #[derive(Debug, Default)]
    pub struct Mutex<T> {
        gate: OnceLock<gated::Mutex<()>>,
        value: std::sync::Mutex<T>,
    }

    #[derive(Debug)]
    pub struct MutexGuard<'a, T> {
        // In this order: the value is let go before the gate opens.
        value: std::sync::MutexGuard<'a, T>,
        gate: Option<gated::MutexGuard<'a, ()>>,
        of: &'a Mutex<T>,
    }

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self { gate: OnceLock::new(), value: std::sync::Mutex::new(value) }
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            let gate = (!is_direct()).then(|| self.gate().lock().unwrap_or_else(PoisonError::into_inner));
            self.behind(gate)
        }

        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            if is_direct() {
                let value = free(self.value.try_lock())?;
                return Some(MutexGuard { value, gate: None, of: self });
            }
            let gate = free(self.gate().try_lock())?;
            Some(self.behind(Some(gate)))
        }

        pub fn into_inner(self) -> T {
            self.value.into_inner().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn get_mut(&mut self) -> &mut T {
            self.value.get_mut().unwrap_or_else(PoisonError::into_inner)
        }

        fn gate(&self) -> &gated::Mutex<()> {
            self.gate.get_or_init(|| gated::Mutex::new(()))
        }

        fn behind<'a>(&'a self, gate: Option<gated::MutexGuard<'a, ()>>) -> MutexGuard<'a, T> {
            let value = free(self.value.try_lock()).expect("deadlock: held by the only one who could let it go");
            MutexGuard { value, gate, of: self }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }

    #[derive(Debug, Default)]
    pub struct RwLock<T> {
        gate: OnceLock<gated::RwLock<()>>,
        value: std::sync::RwLock<T>,
    }

    #[derive(Debug)]
    pub struct RwLockReadGuard<'a, T> {
        value: std::sync::RwLockReadGuard<'a, T>,
        _gate: Option<gated::RwLockReadGuard<'a, ()>>,
    }

    #[derive(Debug)]
    pub struct RwLockWriteGuard<'a, T> {
        value: std::sync::RwLockWriteGuard<'a, T>,
        _gate: Option<gated::RwLockWriteGuard<'a, ()>>,
    }

    impl<T> RwLock<T> {
        pub fn new(value: T) -> Self {
            Self { gate: OnceLock::new(), value: std::sync::RwLock::new(value) }
        }

        fn gate(&self) -> &gated::RwLock<()> {
            self.gate.get_or_init(|| gated::RwLock::new(()))
        }

        pub fn read(&self) -> RwLockReadGuard<'_, T> {
            let _gate = (!is_direct()).then(|| self.gate().read().unwrap_or_else(PoisonError::into_inner));
            let value = free(self.value.try_read()).expect("deadlock: held by the only one who could let it go");
            RwLockReadGuard { value, _gate }
        }

        pub fn write(&self) -> RwLockWriteGuard<'_, T> {
            let _gate = (!is_direct()).then(|| self.gate().write().unwrap_or_else(PoisonError::into_inner));
            let value = free(self.value.try_write()).expect("deadlock: held by the only one who could let it go");
            RwLockWriteGuard { value, _gate }
        }

        pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
            let _gate = if is_direct() { None } else { Some(free(self.gate().try_read())?) };
            Some(RwLockReadGuard { value: free(self.value.try_read())?, _gate })
        }

        pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
            let _gate = if is_direct() { None } else { Some(free(self.gate().try_write())?) };
            Some(RwLockWriteGuard { value: free(self.value.try_write())?, _gate })
        }

        pub fn into_inner(self) -> T {
            self.value.into_inner().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn get_mut(&mut self) -> &mut T {
            self.value.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> Deref for RwLockReadGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> Deref for RwLockWriteGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> DerefMut for RwLockWriteGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }

    #[derive(Debug, Default)]
    pub struct Condvar(OnceLock<gated::Condvar>);

    impl Condvar {
        pub fn new() -> Self {
            Self::default()
        }

        fn gated(&self) -> &gated::Condvar {
            self.0.get_or_init(gated::Condvar::new)
        }

        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            let MutexGuard { value, gate, of } = guard;
            drop(value);
            let gate = gate.expect("deadlock: the only one there waits for another");
            of.behind(Some(self.gated().wait(gate).unwrap_or_else(PoisonError::into_inner)))
        }

        /// No time passes in a simulation: who is never woken is a deadlock.
        pub fn wait_until<'a, T>(&self, guard: MutexGuard<'a, T>, _: std::time::Instant) -> MutexGuard<'a, T> {
            self.wait(guard)
        }

        pub fn notify_all(&self) {
            if !is_direct() {
                self.gated().notify_all();
            }
        }
    }

    fn free<G>(tried: Result<G, TryLockError<G>>) -> Option<G> {
        match tried {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poison)) => Some(poison.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

pub use imp::*;
