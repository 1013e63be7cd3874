//! Which routine copies payloads best: what a ring of this machine finds out, while it runs for a
//! moment.

use std::time::{Duration, Instant};

use serde_json::json;
use slipring::Config;
use slipring_bench::own::{Publishing, raw};
use slipring_bench::work::{Session, Work};

use super::item::{Item, State};

/// The name of each class of lengths, what it is of, a length in it, and how many messages are sent at a
/// time.
const CLASSES: [(&str, &str, usize, u64); 3] = [
    ("copies.from_4_kib", "4 KiB to 16 KiB", 8 << 10, 2048),
    ("copies.from_16_kib", "16 KiB to 128 KiB", 64 << 10, 256),
    ("copies.from_128_kib", "128 KiB and more", 512 << 10, 32),
];
const LONG_ENOUGH: Duration = Duration::from_millis(150);

/// Measures what a ring finds, unless there is a reason not to.
pub(super) fn items(why_not: Option<&str>, processors: usize) -> Vec<Item> {
    let found = match why_not {
        Some(why) => Err(why.to_owned()),
        None => measured(processors).map_err(|error| format!("cannot be measured: {error}")),
    };
    found.unwrap_or_else(|why| {
        let meaning = "Each ring finds out by itself, while it is used.";
        CLASSES.map(|(name, ..)| Item::unknown(name, &*why, meaning)).to_vec()
    })
}

fn measured(processors: usize) -> std::io::Result<Vec<Item>> {
    let mut session = raw(&Config::default(), Publishing::Lazily)?;
    let mut items = Vec::new();
    for (name, lengths, len, count) in CLASSES {
        let rate = stream(&mut *session, len, count)?;
        let routine = session.copies(len).unwrap_or_else(|| "not told".to_owned());
        let value = format!("{routine}, {rate:.1} GB/s");
        let meaning = format!("Found by a ring, for messages of {lengths}. Rings go on looking.");
        let data = json!({ "routine": routine, "gb_per_s": rate });
        let item = Item::ok(name, value, meaning.clone()).with(data);
        items.push(match processors {
            1 => {
                let taking_turns =
                    format!("{meaning} Both sides shared a processor, which says little.");
                item.but(State::Note, taking_turns, "")
            }
            _ => item,
        });
    }
    Ok(items)
}

/// Sends messages to the worker for a moment. Returns the best rate of a slice, in GB/s.
fn stream(session: &mut dyn Session, len: usize, count: u64) -> std::io::Result<f64> {
    let begun = Instant::now();
    let bytes = f64::from(u32::try_from(len).unwrap_or(u32::MAX));
    let mut best = 0.0_f64;
    while begun.elapsed() < LONG_ENOUGH {
        let slice = session.run(Work::Stream { len, piece: len }, count)?;
        best = best.max(bytes / slice.typical_ns());
    }
    Ok(best)
}
