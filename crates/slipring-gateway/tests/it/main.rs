//! A gateway and its callers over the loopback interface, with worker threads behind it.

#![expect(unreachable_pub, reason = "modules of one program")]

mod blocking;
mod calls;
mod certificates;
mod connections;
mod draining;
mod ends;
mod floods;
mod hops;
mod metrics;
mod other_callers;
mod outcomes;
mod overflow;
mod remote_role;
mod rig;
mod slow_readers;
mod tls;
mod traces;
