use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::mpsc;

use super::*;

/// What a way tells, one after another.
fn followed(discovery: Discovery) -> mpsc::UnboundedReceiver<Update> {
    let (send, receive) = mpsc::unbounded_channel();
    tokio::spawn(discovery.check().unwrap().follow(move |update| drop(send.send(update))));
    receive
}

async fn next(updates: &mut mpsc::UnboundedReceiver<Update>) -> Result<Vec<String>, String> {
    let update = tokio::time::timeout(Duration::from_secs(60), updates.recv()).await;
    let update = update.expect("nothing was told").expect("it has ended");
    update.map(|addresses| addresses.iter().map(ToString::to_string).collect())
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[tokio::test]
async fn a_list_is_told_once() {
    let mut updates = followed(Discovery::list(["b:1", "a:1"]));
    assert_eq!(next(&mut updates).await.unwrap(), ["b:1", "a:1"]);
    assert!(updates.recv().await.is_none());
    for wrong in [Discovery::list(["b"]), Discovery::list([""; 0]), Discovery::dns("no-port")] {
        wrong.check().unwrap_err();
    }
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let directory = Directory::new("changes");
    let path = directory.0.join("gateways");
    let mut updates = followed(Discovery::file(&path));
    assert!(next(&mut updates).await.unwrap_err().contains("gateways: No such file"));
    replace(&path, "# two\nb:2 # the second\n\n  a:1\r\na:1\n");
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1", "b:2"]);
    // Of the same length, and soon.
    replace(&path, "# two\nb:2 # the second\n\n  a:3\r\na:3\n");
    assert_eq!(next(&mut updates).await.unwrap(), ["a:3", "b:2"]);
    replace(&path, "c:3");
    assert_eq!(next(&mut updates).await.unwrap(), ["c:3"]);
}

#[tokio::test]
async fn a_file_that_is_missing_or_garbage_leaves_the_set_as_it_was() {
    let directory = Directory::new("garbage");
    let path = directory.0.join("gateways");
    replace(&path, "a:1");
    let mut updates = followed(Discovery::file(&path));
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"]);
    let mut problem = async |text: &str, expected: &str| {
        replace(&path, text);
        let told = next(&mut updates).await.unwrap_err();
        assert!(told.contains(expected), "{told}");
    };
    problem("b:2\nc", "line 2: `c` is no address").await;
    problem(" # nothing", "has no address").await;
    problem(&"a:1\n".repeat(1 << 19), "is longer than").await;
    std::fs::remove_file(&path).unwrap();
    assert!(next(&mut updates).await.unwrap_err().contains("No such file"));
    replace(&path, "a:1\nb:2");
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1", "b:2"]);
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_holds_nothing_up() {
    let directory = Directory::new("pipe");
    let path = directory.0.join("gateways");
    let pipe = directory.0.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(&pipe, &path).unwrap();
    let mut updates = followed(Discovery::file(&path));
    let told = next(&mut updates).await.unwrap_err();
    assert!(told.contains("no regular file"), "{told}");
    replace(&path, "a:1");
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"]);
}

/// What a name is answered.
type Answer = io::Result<Vec<IpAddr>>;

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_again_and_a_bad_answer_changes_nothing() {
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    let answers: VecDeque<Answer> = VecDeque::from([
        Ok(vec![ip(2), ip(1), ip(2)]),
        Ok(vec![ip(1), ip(2)]),
        Err(io::Error::other("no server")),
        Err(io::Error::other("no server")),
        Ok(vec![]),
        Ok(vec![ip(2)]),
        Ok(vec![ip(2), ip(1)]),
    ]);
    let answers = Mutex::new(answers);
    let (send, mut updates) = mpsc::unbounded_channel();
    let ask = move || {
        let answer = answers.lock().unwrap().pop_front();
        async { answer.unwrap_or_else(|| Ok(vec![])) }
    };
    let tell = move |update| drop(send.send((update, tokio::time::Instant::now())));
    let began = tokio::time::Instant::now();
    let name = Address::parse("pods.example:7").unwrap();
    tokio::spawn(dns::follow_answers(ask, name, Duration::from_secs(1), tell));
    let mut next = async || {
        let (update, when): (Update, _) = updates.recv().await.unwrap();
        let update = update.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        (update, when.duration_since(began).as_secs())
    };
    let both = ["10.0.0.1:7 (pods.example)", "10.0.0.2:7 (pods.example)"].map(str::to_owned);
    assert_eq!(next().await, (Ok(both.to_vec()), 0));
    assert_eq!(next().await, (Err("pods.example: no server".to_owned()), 2));
    assert_eq!(next().await, (Err("pods.example has no address".to_owned()), 4));
    assert_eq!(next().await, (Ok(both[1..].to_vec()), 5));
    assert_eq!(next().await, (Ok(both.to_vec()), 6));
}

#[tokio::test]
async fn the_name_of_this_machine_has_an_address() {
    let mut updates = followed(Discovery::dns("localhost:7"));
    let found = next(&mut updates).await.unwrap();
    assert!(found.iter().any(|at| at.ends_with(":7 (localhost)")), "{found:?}");
}

/// A directory for one test.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("slipring-discovery-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}
