//! Addresses from a file that changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Teller, Update};
use crate::client::address::Address;
use crate::small_file;

/// A change is used when two readings in a row have found it, so after two of these.
const PERIOD: Duration = Duration::from_millis(100);

/// Reads the file again and again. A modification time would not do: it can be too coarse.
pub(super) async fn follow(path: Arc<Path>, tell: impl FnMut(Update)) {
    let mut teller = Teller::new(tell);
    let mut readings = Readings(None);
    loop {
        let of = Arc::clone(&path);
        // A file system can block, such as one of another machine.
        let read = tokio::task::spawn_blocking(move || read(&of)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        if let Some(read) = readings.note(read) {
            teller.note(read.as_ref().map_err(Clone::clone).and_then(|text| parse(&path, text)));
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// The last reading of a file.
struct Readings(Option<Reading>);

type Reading = Result<String, String>;

impl Readings {
    /// Returns a reading if it is the first one, or the same as the one before: a file that was
    /// read half written is found changed at the next reading.
    fn note(&mut self, read: Reading) -> Option<&Reading> {
        let is_steady = self.0.as_ref().is_none_or(|before| *before == read);
        let read = &*self.0.insert(read);
        is_steady.then_some(read)
    }
}

fn read(path: &Path) -> Reading {
    let text = small_file::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    String::from_utf8(text).map_err(|_| format!("{}: it is no text", path.display()))
}

fn parse(path: &Path, text: &str) -> Update {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let addresses = lines.enumerate().filter(|(_, line)| !line.is_empty());
    let parse = |(at, line)| {
        Address::parse(line).map_err(|why| format!("{}, line {}: {why}", path.display(), at + 1))
    };
    let addresses: Vec<_> = addresses.map(parse).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(format!("{} has no address", path.display()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_written_file_is_not_used() {
        let mut readings = Readings(None);
        let mut note = |text: &str| readings.note(Ok(text.to_owned())).cloned();
        assert_eq!(note("a:1"), Some(Ok("a:1".to_owned())));
        assert_eq!((note(""), note("a:1\nb"), note("a:1\nb:2")), (None, None, None));
        assert_eq!(note("a:1\nb:2"), Some(Ok("a:1\nb:2".to_owned())));
    }
}
