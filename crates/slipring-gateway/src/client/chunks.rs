//! The chunks of a stream, over all attempts of its request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use slipring::backend::BoxFuture;
use slipring::{Reply, Result};

use super::attempts::{Attempts, StreamLimits};
use super::fleet::Ending;
use super::shared::Permit;
use super::wire::{Arriving, BoxArriving, Connect};

/// A stream that was opened at a gateway.
pub(super) type Opened<C> = (Attempts<C>, StreamLimits, Permit<C>, BoxArriving);

/// The chunks of a stream. Before the first one another gateway may take the request over.
pub(super) struct Chunks<C: Connect> {
    state: State<C>,
    has_delivered: bool,
}

enum State<C: Connect> {
    Opening(BoxFuture<'static, Result<Opened<C>>>),
    Open(Box<Opened<C>>),
    Over,
}

impl<C: Connect> Chunks<C> {
    pub(super) fn new(opened: Opened<C>) -> Self {
        Self { state: State::Open(Box::new(opened)), has_delivered: false }
    }
}

impl<C: Connect> Stream for Chunks<C> {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let result = match &mut this.state {
                State::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(opened) => {
                        this.state = State::Open(Box::new(opened));
                        continue;
                    }
                    Err(error) => {
                        this.state = State::Over;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                State::Open(opened) => ready!(opened.3.as_mut().poll_next(context)),
                State::Over => return Poll::Ready(None),
            };
            if let Some(Ok(chunk)) = result {
                this.has_delivered = true;
                return Poll::Ready(Some(Ok(chunk)));
            }
            let State::Open(opened) = std::mem::replace(&mut this.state, State::Over) else {
                return Poll::Ready(None);
            };
            let (mut attempts, mut limits, permit, chunks) = *opened;
            drop(chunks);
            let Some(Err(error)) = result else {
                permit.end(Ending::Answered);
                return Poll::Ready(None);
            };
            if let Err(error) = attempts.failed(permit, error, this.has_delivered) {
                return Poll::Ready(Some(Err(error)));
            }
            limits.note_attempt(attempts.request().progress().stage());
            this.state = State::Opening(Box::pin(attempts.open(limits)));
        }
    }
}

impl<C: Connect> Arriving for Chunks<C> {
    fn take_arrived(mut self: Pin<&mut Self>) -> Option<Reply> {
        match &mut self.state {
            State::Open(opened) => opened.3.as_mut().take_arrived(),
            _ => None,
        }
    }
}
