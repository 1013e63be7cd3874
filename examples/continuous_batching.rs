//! A toy language model that serves many chats at the same time: each of its steps says one more
//! word in all of them. Chats join and leave between two steps, and one of them is cancelled.
//!
//!     cargo run --example continuous_batching

use std::time::Duration;

use slipring::worker::{self, ChunkMerger, HandlerError, Incoming, StepEngine, Worker};
use slipring::{Kind, Spawner};

const TIMEOUT: Duration = Duration::from_secs(10);
/// What the model did so far.
const STEPS: Kind = Kind::named("steps");
/// How many chats a step can advance.
const CHATS: usize = 3;

/// A chat that is open.
struct Chat {
    words: std::vec::IntoIter<String>,
    chunks: ChunkMerger,
}

#[derive(Default)]
struct Model {
    chats: Vec<Chat>,
    /// How many chats each step advanced at most.
    most: usize,
    steps: usize,
    finished: usize,
    cancelled: usize,
}

impl StepEngine for Model {
    fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError> {
        let Incoming { request, responder } = incoming;
        if request.kind() == STEPS {
            let Self { steps, most, finished, cancelled, .. } = self;
            let report = format!("{steps} {most} {finished} {cancelled}");
            return Ok(responder.send(&report)?);
        }
        // A real model would read the prompt here, and reserve memory for the chat.
        let words = request.get().text()?.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let chunks = ChunkMerger::new(responder, 4096);
        self.chats.push(Chat { words: words.into_iter(), chunks });
        Ok(())
    }

    fn step(&mut self) -> Result<(), HandlerError> {
        // A pass of the model, for all chats together.
        std::thread::sleep(Duration::from_millis(2));
        self.steps += 1;
        self.most = self.most.max(self.chats.len());
        for Chat { words, chunks } in &mut self.chats {
            let Some(word) = words.as_slice().first() else {
                chunks.finish();
                continue;
            };
            // If the reader is too far behind, the same word is tried in the next step.
            if chunks.push(format!("{word} ").as_bytes()) {
                words.next();
            }
        }
        // Chats leave if they have ended, or if their callers do not wait any longer.
        let (finished, cancelled) = (&mut self.finished, &mut self.cancelled);
        self.chats.retain(|chat| {
            let is_over = chat.chunks.is_over();
            if is_over {
                let has_ended = chat.words.as_slice().is_empty();
                *finished += usize::from(has_ended);
                *cancelled += usize::from(!has_ended);
            }
            !is_over
        });
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        self.chats.len() < CHATS
    }

    fn has_finished(&self) -> bool {
        self.chats.is_empty()
    }
}

fn main() -> slipring::Result<()> {
    if worker::is_worker() {
        return Worker::new(|_role| Ok(Model::default())).steps().serve();
    }
    let channel = Spawner::current_exe()?.role("chat").spawn()?;
    let endless = vec!["on and"; 5000].join(" ");
    let mut long = channel.stream(Kind::CHAT, &endless, TIMEOUT)?;
    let mut first_words = String::new();
    while first_words.len() < 12 {
        let Some(chunk) = long.next_chunk()? else { break };
        first_words.push_str(&chunk.text()?);
    }
    println!("the long chat begins: {first_words}");

    // Five join while it goes on: three at a time, so that some wait until others have left.
    let prompts = ["one", "one two", "one two three", "one two", "one"];
    let mut chats = Vec::new();
    for prompt in prompts {
        chats.push((prompt, channel.stream(Kind::CHAT, prompt, TIMEOUT)?));
    }
    for (prompt, chat) in chats {
        let mut said = String::new();
        for chunk in chat {
            said.push_str(&chunk?.text()?);
        }
        println!("the chat {prompt:?} is whole: {}", said.trim_end() == prompt);
    }

    // The caller of the long chat leaves.
    long.cancel();
    match long.find_map(Result::err) {
        Some(error) => println!("the long chat: {error}"),
        None => println!("the long chat was faster than the cancel"),
    }
    while channel.in_flight() > 0 {
        // The worker has not seen it yet.
        std::thread::sleep(Duration::from_millis(1));
    }

    let report = channel.call(STEPS, "", TIMEOUT)?.text()?;
    let mut numbers = report.split(' ');
    let mut next = || numbers.next().unwrap_or_default();
    println!("{} steps, of at most {} chats", next(), next());
    println!("{} chats have finished, {} was cancelled", next(), next());
    channel.close(TIMEOUT)?;
    Ok(())
}
