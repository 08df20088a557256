//! Places for clients that a server has no reason to keep yet, bounded in number: the oldest makes room for a new one,
//! so that clients which connect and say nothing keep no other out.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// The places that are taken, the oldest first. One is given up when its sender is dropped.
    taken: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
    given_up: oneshot::Receiver<()>,
}

impl Places {
    /// As many as `most`, 1 at least.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// Takes a place, that of the oldest client where there is no other.
    pub(crate) fn take(self: &Arc<Self>) -> Place {
        let (sender, given_up) = oneshot::channel();
        let mut state = self.state.lock();
        if state.taken.len() >= self.most {
            state.taken.pop_first();
        }
        let id = state.next;
        state.next += 1;
        state.taken.insert(id, sender);
        drop(state);
        Place { places: Arc::clone(self), id, given_up }
    }

    /// Has the oldest client give up its place, if there is one.
    pub(crate) fn give_up_oldest(&self) {
        self.state.lock().taken.pop_first();
    }

    /// Has all clients give up their places.
    pub(crate) fn give_up_all(&self) {
        self.state.lock().taken.clear();
    }
}

impl Place {
    /// What `client` comes to; `None`: the place was given up before.
    pub(crate) async fn hold<T>(&mut self, client: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = client => Some(done),
            _ = &mut self.given_up => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state.lock().taken.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn the_oldest_makes_room_and_a_place_that_is_left_is_free() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let places = Places::new(2);
            let (mut first, mut second) = (places.take(), places.take());
            assert_eq!(first.hold(ready(1)).await, Some(1));
            let mut third = places.take();
            assert_eq!(first.hold(pending::<()>()).await, None);
            drop(second);
            second = places.take();
            assert_eq!(third.hold(ready(3)).await, Some(3), "there was a free place");
            places.give_up_oldest();
            assert_eq!(third.hold(pending::<()>()).await, None);
            places.give_up_all();
            assert_eq!(second.hold(pending::<()>()).await, None);
        });
    }
}
