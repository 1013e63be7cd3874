//! A value that is made once, in a process that may be forked meanwhile.
//!
//! In a forked child a [`OnceLock`] whose value another thread of the parent was making is waited for for
//! ever: the child does not have that thread.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A place for such a value.
#[derive(Debug)]
pub(crate) struct ForkOnce<T> {
    value: OnceLock<T>,
    /// The id of the process that has made the value, or is at it.
    made_by: AtomicU32,
}

/// No process has this id.
const NOT_MADE: u32 = 0;

impl<T> ForkOnce<T> {
    pub(crate) const fn new() -> Self {
        Self { value: OnceLock::new(), made_by: AtomicU32::new(NOT_MADE) }
    }

    /// Returns the value, which the first call makes: others wait for that. `None` in a process that was
    /// forked while another thread was making it; there the caller has to do without.
    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> Option<&T> {
        let this = std::process::id();
        let mut make = Some(make);
        loop {
            // Never blocks, also while it is set.
            if let Some(value) = self.value.get() {
                return Some(value);
            }
            let order = Ordering::Relaxed;
            match self.made_by.compare_exchange(NOT_MADE, this, order, order) {
                // The only one that ever sets it.
                Ok(_) => drop(make.take().map(|make| self.value.set(make()))),
                // The other thread may have less priority than this one.
                Err(process) if process == this => std::thread::sleep(Duration::from_micros(50)),
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::{alone, fork};

    #[test]
    fn a_fork_while_another_thread_makes_a_value_does_not_wait_for_it() {
        alone(|| {
            static VALUE: ForkOnce<i32> = ForkOnce::new();
            let (tell, told) = std::sync::mpsc::channel();
            let (go, gone) = std::sync::mpsc::channel::<()>();
            let slow = std::thread::spawn(move || {
                VALUE.get_or_init(|| {
                    tell.send(()).unwrap();
                    gone.recv().unwrap();
                    7
                })
            });
            told.recv().unwrap();
            assert_eq!(fork(|| i32::from(VALUE.get_or_init(|| 8).is_none())), 1);
            let waits = std::thread::spawn(|| VALUE.get_or_init(|| 9));
            go.send(()).unwrap();
            assert_eq!([slow, waits].map(|it| it.join().unwrap()), [Some(&7); 2]);
            assert_eq!(fork(|| *VALUE.get_or_init(|| 8).unwrap()), 7);
        });
    }
}
