//! A thread that costs its process little: a small stack, and no heap.
//!
//! A thread of the standard library allocates as it begins, for which the C library gives it 64 MiB of
//! addresses of its own. This one has a stack of [`STACK`], and allocates only if its body does.
#![allow(unsafe_code, reason = "system calls, and functions of the C library")]

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

// As the C library has them; the crate `libc` does not, in all of its versions.
const PTHREAD_EXPLICIT_SCHED: libc::c_int = 1;
unsafe extern "C" {
    fn pthread_attr_setinheritsched(
        attributes: *mut libc::pthread_attr_t,
        how: libc::c_int,
    ) -> libc::c_int;
    fn pthread_attr_setschedpolicy(
        attributes: *mut libc::pthread_attr_t,
        policy: libc::c_int,
    ) -> libc::c_int;
    fn pthread_attr_setschedparam(
        attributes: *mut libc::pthread_attr_t,
        parameters: *const libc::sched_param,
    ) -> libc::c_int;
}

/// The bytes of its stack, beside what the C library needs there.
const STACK: usize = 128 << 10;

/// Starts a thread that nothing waits for. If the calling thread is one that no other thread may
/// interrupt (`SCHED_FIFO`, `SCHED_RR`), the new one is none. `body` must not panic: that ends the process.
///
/// # Errors
///
/// If there can be no thread more.
pub(crate) fn start(body: fn()) -> io::Result<()> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let place = attributes.as_mut_ptr();
    // SAFETY: a place for what the call initialises.
    done(unsafe { libc::pthread_attr_init(place) })?;
    let started = start_with(place, body);
    // SAFETY: initialised above.
    unsafe { libc::pthread_attr_destroy(place) };
    started
}

fn start_with(attributes: *mut libc::pthread_attr_t, body: fn()) -> io::Result<()> {
    // SAFETY: initialised attributes.
    done(unsafe { libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED) })?;
    // SAFETY: as above.
    done(unsafe { libc::pthread_attr_setstacksize(attributes, least_stack(attributes) + STACK) })?;
    if is_real_time() {
        let normal = libc::sched_param { sched_priority: 0 };
        // SAFETY: as above.
        done(unsafe { pthread_attr_setinheritsched(attributes, PTHREAD_EXPLICIT_SCHED) })?;
        // SAFETY: as above.
        done(unsafe { pthread_attr_setschedpolicy(attributes, libc::SCHED_OTHER) })?;
        // SAFETY: as above; the second pointer is live and only read.
        done(unsafe { pthread_attr_setschedparam(attributes, &raw const normal) })?;
    }
    let mut thread = MaybeUninit::uninit();
    #[expect(clippy::as_conversions, reason = "a function, as the pointer that is handed on")]
    let body = body as *mut c_void;
    // SAFETY: `run` is a function of the wanted kind, and `body` what it wants. The place for the id is
    // live, and only written.
    done(unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes, run, body) })
}

extern "C" fn run(body: *mut c_void) -> *mut c_void {
    // SAFETY: `start_with` has made the pointer of such a function, the only ones that come here.
    let body = unsafe { std::mem::transmute::<*mut c_void, fn()>(body) };
    body();
    ptr::null_mut()
}

fn done(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Whether the calling thread is one that no thread of another kind may interrupt.
fn is_real_time() -> bool {
    // SAFETY: takes an integer only.
    let policy = unsafe { libc::sched_getscheduler(0) };
    [libc::SCHED_FIFO, libc::SCHED_RR].contains(&(policy & !libc::SCHED_RESET_ON_FORK))
}

/// The least that a stack may have. The variables of all threads of the program lie in it, which may
/// be many.
fn least_stack(attributes: *const libc::pthread_attr_t) -> usize {
    type Least = unsafe extern "C" fn(*const libc::pthread_attr_t) -> usize;
    // SAFETY: a live string. What is found is only called if it is there.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__pthread_get_minstack".as_ptr()) };
    if found.is_null() {
        return libc::PTHREAD_STACK_MIN;
    }
    // SAFETY: a function of the C library, which has this signature wherever it exists.
    let least = unsafe { std::mem::transmute::<*mut c_void, Least>(found) };
    // SAFETY: initialised attributes.
    unsafe { least(attributes) }
}
