//! The worker's side of a channel: a program that serves requests.
//!
//! A [`Worker`] has a *session*, which is built once (a loaded model, a connection), and a
//! handler for each [`Kind`](crate::Kind) of request. A handler gets the session, a [`Request`]
//! and a [`Responder`]:
//!
//! ```
//! # fn main() -> slipring::Result<()> {
//! use std::time::Duration;
//! use slipring::worker::Worker;
//! use slipring::{Config, Kind, RoleConfig, testing};
//!
//! const ADD: Kind = Kind::named("add");
//! let make = || {
//!     Worker::new(|_role| Ok(0_u64)).on(ADD, |sum, request, responder| {
//!         *sum += request.text()?.parse::<u64>()?;
//!         Ok(responder.send(&sum.to_string())?)
//!     })
//! };
//! // A thread in the place of a process, so that this example runs.
//! let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
//! let timeout = Duration::from_secs(10);
//! assert_eq!(channel.call(ADD, "40", timeout)?.to_vec(), b"40");
//! assert_eq!(channel.call(ADD, "2", timeout)?.to_vec(), b"42");
//! # Ok(())
//! # }
//! ```
//!
//! # Which way to serve do I want?
//!
//! | to | use | the model is called by |
//! |---|---|---|
//! | serve one request at a time, with no lock | [`Worker::on`], the default | the thread that serves |
//! | serve requests on several threads | [`Worker::threads`] with [`Threads`] | these threads |
//! | serve requests with async handlers | [`Worker::tasks`] with [`Tasks`] | an executor |
//! | advance many streams by one step at a time, as engines of language models do | [`Worker::steps`] with a [`StepEngine`] | the thread that serves |
//! | put requests that wait at the same time into one pass of a model | [`Worker::batches`] with [`Batches`] | the thread that serves |
//! | take requests and answer them in a way of your own: any order, any thread | [`Worker::inbox`] | your code |
//!
//! A worker has one way to serve: [`Worker::serve`] refuses a second one.
//!
//! By default **a worker serves one request at a time**, in the order in which the requests were
//! sent, and runs all handlers on the thread that called [`Worker::serve`]. So a handler needs no
//! lock for its session. While a handler runs, all other requests of the channel wait, also while
//! the handler waits for the reader of its stream.
//!
//! A handler of [`Worker::on_reader`] reads a long request while it comes, by a [`RequestReader`];
//! the other handlers get it when all of it is there.
//!
//! The other ways take requests before the earlier ones are answered, up to
//! [`Worker::max_taken`]. A request that was *taken* is *begun* when a handler or an engine gets
//! it. If the worker dies, the error of each request tells how far the worker was with it:
//! [`Error::stage`](crate::Error::stage).
//!
//! The parent can ask a busy worker for its health: a thread of the worker's own answers.
//!
//! # When a request is cancelled
//!
//! A caller that cancels its request, drops it or does not wait any longer sets a flag. The flag
//! ends no handler. A handler that takes long looks at [`Request::is_cancelled`] now and then, or
//! calls [`Request::check_cancelled`] and returns the error that it gives. Waits of a
//! [`Responder`] end by themselves with the same error. A request that is cancelled before it is
//! begun is not given to a handler.
//!
//! # When a handler fails
//!
//! An error that a handler returns becomes the error of that request: the caller gets its type
//! name, message, sources and backtrace, in a [`HandlerFailure`](crate::HandlerFailure). A panic
//! becomes an error with the type name `panic`. The worker goes on with the next request, and
//! with the session as the handler left it. [`HandlerError`] tells more.
//!
//! # The end of a worker
//!
//! [`Worker::serve`] returns when the parent closes the channel, or is gone. The handler that
//! runs then should return soon: [`Request::is_cancelled`] says so. If the parent is gone, the
//! process ends 800 ms later in any case.

mod attach;
mod batch_queues;
mod batches;
mod builder;
mod cancel;
mod chunk_merger;
mod collector;
mod handler_error;
mod handlers;
mod health;
mod inbox;
mod last_error;
mod open_reply;
mod owned;
mod owned_request;
mod owned_slot;
mod owned_writer;
mod panics;
pub(crate) mod raw;
mod reply_sink;
mod request;
mod request_pieces;
mod request_reader;
mod request_ring;
mod responder;
mod room_queue;
mod serial;
mod serve;
mod shared_sink;
mod status;
mod steps;
mod stop_token;
mod tasks;
mod threads;
mod traced;
mod unanswered;
mod wakers;

pub use attach::is_worker;
pub use batches::{Batches, RequestBatch};
pub use builder::Worker;
pub use cancel::{AbortFlag, CancelToken};
pub use chunk_merger::ChunkMerger;
pub use handler_error::HandlerError;
pub use inbox::{Inbox, Peeked};
pub use owned::{Incoming, OwnedResponder, TryClaim, TrySend};
pub use owned_request::OwnedRequest;
pub use owned_slot::{OwnedChunk, OwnedSlot};
pub use owned_writer::OwnedReplyWriter;
pub use raw::attach_raw;
pub use request::Request;
pub use request_pieces::RequestPiece;
pub use request_reader::RequestReader;
pub use responder::{Done, ReplySlot, ReplyStream, ReplyWriter, Responder};
pub use shared_sink::task_waits::Cancelled;
pub use steps::StepEngine;
#[cfg(any(feature = "named", feature = "testing"))]
pub(crate) use stop_token::StopToken;
pub use tasks::{BoxTask, Tasks};
pub use threads::{OwnSession, SharedSession, Threads};
