//! `slipring embed`: puts the parts together.

use std::time::Duration;

use crate::args::Options;
use crate::batch::Batch;
use crate::error::{Error, say};
use crate::input::{Inputs, Source};
use crate::output::Output;
use crate::pipeline::{self, Events, Sink};
use crate::progress::{Progress, Style};
use crate::stats::Summary;
use crate::{signals, worker};

pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let events = Events::new();
    signals::watch(events.sender.clone())
        .map_err(|e| Error::failure(format!("cannot watch signals: {e}")))?;
    let inputs = Inputs::open(&options.inputs)?;
    let (total, is_typed) = (inputs.total_bytes, inputs.is_typed());
    let config = worker::config(options)?;
    let output = Output::create(options.output.clone(), options.dim, &inputs.identities)?;
    let limits = worker::limits(options, &config);
    let workers = worker::start(options, &config, events.sender.clone())?;

    if is_typed && !options.quiet {
        say("reading standard input, a text a line; Ctrl-D ends it");
    }
    let mut source = Source::new(inputs, limits);
    let mut sink =
        Shown { output, progress: Progress::new(Style::detect(options.quiet), total), consumed: 0 };
    let fill = Box::new(move |batch: &mut Batch| source.fill(batch));
    let done = pipeline::run(&workers, options.dim, fill, &mut sink, &events);
    let Shown { output, progress, .. } = sink;
    drop(progress);
    let done = done.and_then(|summary| {
        events.check_signal()?;
        if summary.texts == 0 && !options.allow_empty {
            return Err(empty(options));
        }
        output.finish().map(|written| (written, summary))
    });
    workers.close();
    let (written, summary) = done?;
    if !options.quiet {
        say(format_args!("{written}: {summary}"));
    }
    Ok(())
}

/// The error for an input without any text. Usually a program earlier in the pipeline has
/// failed, and that must not replace an earlier result by an empty one.
fn empty(options: &Options) -> Error {
    let what = match options.inputs.as_slice() {
        [input] => format!("{input} is empty"),
        inputs => format!("all {} inputs are empty", inputs.len()),
    };
    Error::failure(format!("{what} (--allow-empty writes a result without rows)"))
}

/// The output, with the progress shown beside it.
struct Shown {
    output: Output,
    progress: Progress,
    consumed: u64,
}

impl Sink for Shown {
    fn write(&mut self, batch: &Batch, so_far: &Summary) -> Result<(), Error> {
        self.output.write_rows(&batch.vectors)?;
        self.consumed = batch.consumed;
        self.idle(so_far);
        Ok(())
    }

    fn idle(&mut self, so_far: &Summary) {
        self.progress.show(so_far.texts, self.consumed, so_far.elapsed);
    }

    fn interval(&self) -> Duration {
        self.progress.interval()
    }
}
