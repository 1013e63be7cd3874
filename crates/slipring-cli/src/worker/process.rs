//! The worker process: the embedder, behind one handler.
//!
//! Texts are copied out of the request's frame, because the parent could change
//! them; vectors are computed right in the reply's slot of the ring.

use std::process::ExitCode;

use slipring::payload::{ElementType, MatrixShape, MatrixWriter, Texts};
use slipring::worker::{Done, HandlerError, Request, Responder};
use slipring::{Kind, RoleConfig};

use super::DIM;
use crate::embedder::Embedder;
use crate::error::say;

/// Serves the parent until the parent ends the worker or is gone.
pub(crate) fn serve() -> ExitCode {
    let worker = slipring::worker::Worker::new(Session::new).on(Kind::EMBED, Session::embed);
    match worker.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}

struct Session {
    dim: usize,
    embedder: Embedder,
    texts: Texts,
}

impl Session {
    fn new(role: &RoleConfig) -> Result<Self, HandlerError> {
        let dim = role.extra(DIM).and_then(|dim| dim.parse().ok()).ok_or_else(|| {
            HandlerError::new("slipring_cli::Config", "the number of dimensions is missing")
        })?;
        // Standard error is the worker's log, if it has one.
        say(format_args!("worker {}: ready, {dim} numbers a text", std::process::id()));
        Ok(Self { dim, embedder: Embedder::new(dim), texts: Texts::new() })
    }

    fn embed(
        &mut self,
        request: &Request<'_>,
        responder: Responder<'_>,
    ) -> Result<Done, HandlerError> {
        self.texts.decode_from(request)?;
        let shape = MatrixShape::new(self.texts.len(), self.dim, ElementType::F32)?;
        let mut slot = responder.claim(shape.encoded_len())?;
        let mut vectors = MatrixWriter::new(slot.payload(), shape)?;
        for (row, text) in self.texts.iter().enumerate() {
            request.check_cancelled()?;
            self.embedder.embed_into(text, vectors.row_f32_mut(row)?);
        }
        Ok(slot.send())
    }
}
