//! How to test a host: a small one, and below it its tests. Most use a worker thread in place of
//! the worker process (feature `testing`); one uses a process, which it can kill.
//!
//!     cargo run --features testing --example testing_host
//!     cargo test --features testing --example testing_host

use std::time::Duration;

use slipring::worker::{self, Worker};
use slipring::{Channel, Kind, Result, Spawner};

const TIMEOUT: Duration = Duration::from_secs(10);
const TRANSLATE: Kind = Kind::named("translate");

/// The host's own code: it takes a channel and does not know how the worker was started.
struct Translator {
    channel: Channel,
    /// What it falls back to.
    failures: u32,
}

impl Translator {
    fn new(channel: Channel) -> Self {
        Self { channel, failures: 0 }
    }

    /// Translates a word; the word itself if the worker cannot.
    fn translate(&mut self, word: &str) -> String {
        match self.channel.call(TRANSLATE, word, TIMEOUT) {
            Ok(reply) => String::from_utf8_lossy(&reply.to_vec()).into_owned(),
            Err(_) => {
                self.failures += 1;
                word.to_owned()
            }
        }
    }
}

/// The worker, for its process and for the tests' thread.
fn translator() -> Worker<Vec<(&'static str, &'static str)>> {
    let load = |_role: &slipring::RoleConfig| Ok(vec![("ring", "anneau"), ("frame", "trame")]);
    Worker::new(load).on(TRANSLATE, |words, request, responder| {
        let word = request.text()?;
        let found = words.iter().find(|(known, _)| *known == word);
        let (_, translation) = found.ok_or_else(|| format!("{word:?} is not in the dictionary"))?;
        Ok(responder.send(*translation)?)
    })
}

fn main() -> Result<()> {
    if worker::is_worker() {
        return translator().serve();
    }
    let channel = Spawner::current_exe()?.role("translate").spawn()?;
    let mut host = Translator::new(channel);
    println!("ring: {}", host.translate("ring"));
    println!("bell: {}, {} not translated", host.translate("bell"), host.failures);
    host.channel.close(TIMEOUT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use slipring::{Config, RoleConfig, testing};

    use super::*;

    /// A host whose worker is a thread: nothing is started, and a debugger sees both sides.
    fn host_with_a_thread() -> Translator {
        let config = Config::small();
        let channel = testing::spawn_thread(&config, RoleConfig::default(), translator);
        Translator::new(channel.expect("a worker thread"))
    }

    #[test]
    fn a_known_word_is_translated() {
        let mut host = host_with_a_thread();
        assert_eq!(host.translate("frame"), "trame");
        assert_eq!(host.failures, 0);
    }

    #[test]
    fn an_unknown_word_stays_as_it_is_and_is_counted() {
        let mut host = host_with_a_thread();
        assert_eq!(host.translate("bell"), "bell");
        assert_eq!(host.failures, 1);
    }

    /// Not a test: what the worker process of the next test runs. That process is this program
    /// once more, with the name of this function as its filter.
    #[test]
    fn worker_process() {
        if worker::is_worker() {
            translator().serve().expect("a parent");
        }
    }

    #[test]
    fn a_host_survives_the_death_of_its_worker() {
        let spawner = Spawner::current_exe().expect("this program").role("translate");
        let spawner = spawner.args(["tests::worker_process", "--exact", "--nocapture"]);
        let mut host = Translator::new(spawner.spawn().expect("a worker process"));
        assert_eq!(host.translate("ring"), "anneau");

        // Only a process can be killed.
        let pid = host.channel.pid().to_string();
        let killed = std::process::Command::new("kill").args(["-KILL", &pid]).status();
        assert!(killed.expect("kill").success());
        assert_eq!(host.translate("ring"), "ring");
        assert_eq!(host.failures, 1);
        assert!(!host.channel.is_alive());
    }
}
