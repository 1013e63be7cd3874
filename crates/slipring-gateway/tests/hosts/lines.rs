//! What the processes tell the test: lines of words.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time in microseconds: the same for all processes.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A call that must not be served twice.
    Once,
    /// A call that may be.
    Again,
    /// A stream that must not be served twice.
    Chunks,
}

impl Asked {
    pub fn word(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Again => "again",
            Self::Chunks => "chunks",
        }
    }

    fn parse(word: &str) -> Self {
        let all = [Self::Once, Self::Again, Self::Chunks];
        all.into_iter().find(|asked| asked.word() == word).unwrap()
    }
}

/// A line of a caller.
#[derive(Debug, Clone)]
pub struct Line {
    pub at: u64,
    pub says: Says,
}

#[derive(Debug, Clone)]
pub enum Says {
    /// What a gateway is used for.
    State {
        address: String,
        state: String,
    },
    Sent {
        number: u64,
        asked: Asked,
    },
    /// The first chunk of a stream has come.
    First {
        number: u64,
        host: String,
    },
    Answered {
        number: u64,
        host: String,
        execution: String,
    },
    Failed {
        number: u64,
        kind: String,
        was_begun: Option<bool>,
        message: String,
    },
    /// Something came that should not.
    Wrong(String),
    /// It sends no more, and all its requests are over.
    End,
}

impl Line {
    /// The time of a line.
    pub fn at(text: &str) -> u64 {
        text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    pub fn parse(text: &str) -> Self {
        let mut words = text.splitn(6, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (what, at) = (word(), word().parse().unwrap());
        let says = match what.as_str() {
            "state" => Says::State { address: word(), state: word() },
            "sent" => Says::Sent { number: word().parse().unwrap(), asked: Asked::parse(&word()) },
            "first" => Says::First { number: word().parse().unwrap(), host: word() },
            "answered" => {
                let number = word().parse().unwrap();
                Says::Answered { number, host: word(), execution: word() }
            }
            "failed" => {
                let (number, kind) = (word().parse().unwrap(), word());
                let was_begun = match word().as_str() {
                    "begun" => Some(true),
                    "unbegun" => Some(false),
                    _ => None,
                };
                Says::Failed { number, kind, was_begun, message: word() }
            }
            "end" => Says::End,
            _ => Says::Wrong(text.to_owned()),
        };
        Self { at, says }
    }
}

/// Prints a line with the time.
pub fn say(what: &str, rest: &str) {
    println!("{what} {} {}", now(), rest.replace('\n', " "));
}
