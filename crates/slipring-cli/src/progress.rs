//! Shows progress on standard error: a bar on a terminal, otherwise a plain
//! line every few seconds.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crate::stats::{Thousands, rate};
use crate::stdio;

const WIDTH: u64 = 24;
const BAR_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Silent,
    Lines,
    Bar { colour: bool },
}

impl Style {
    /// Returns the style that fits standard error and the environment.
    pub(crate) fn detect(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if quiet {
            Self::Silent
        } else if dumb || !io::stderr().is_terminal() {
            Self::Lines
        } else {
            Self::Bar { colour: !no_colour }
        }
    }
}

pub(crate) struct Progress {
    style: Style,
    /// Bytes of input, if known beforehand.
    total: Option<u64>,
    last: Instant,
    drawn: bool,
}

impl Progress {
    pub(crate) fn new(style: Style, total: Option<u64>) -> Self {
        Self { style, total: total.filter(|&total| total > 0), last: Instant::now(), drawn: false }
    }

    /// How often there may be something new to see.
    pub(crate) fn interval(&self) -> Duration {
        match self.style {
            Style::Silent => NEVER,
            Style::Lines => LINE_INTERVAL,
            Style::Bar { .. } => BAR_INTERVAL,
        }
    }

    /// Shows the state, unless it was shown a moment ago.
    pub(crate) fn show(&mut self, texts: u64, consumed: u64, elapsed: Duration) {
        if self.last.elapsed() < self.interval() {
            return;
        }
        self.last = Instant::now();
        let text = render(self.style, self.total, texts, consumed, elapsed);
        self.drawn = matches!(self.style, Style::Bar { .. });
        // Progress that cannot be shown is no reason to stop.
        stdio::warn(&text);
    }
}

impl Drop for Progress {
    /// Removes the bar, so that the next message has the line to itself.
    fn drop(&mut self) {
        if self.drawn {
            stdio::warn("\r\x1b[K");
        }
    }
}

fn render(
    style: Style,
    total: Option<u64>,
    texts: u64,
    consumed: u64,
    elapsed: Duration,
) -> String {
    let speed = Thousands(rate(texts, elapsed));
    let texts = Thousands(texts);
    let part = |of: u64, total: u64| {
        // A file that grows while it is read is never beyond its end.
        u64::try_from(u128::from(consumed.min(total)) * u128::from(of) / u128::from(total))
            .unwrap_or(of)
    };
    let percent = total.map_or(String::new(), |total| format!("{:>3} %  ", part(100, total)));
    match style {
        Style::Silent => String::new(),
        Style::Lines => {
            format!("slipring: {}{texts} texts  {speed} texts/s\n", percent.trim_start())
        }
        Style::Bar { colour } => {
            let bar = total.map_or(String::new(), |total| {
                let cells = |n: u64, cell: &str| cell.repeat(usize::try_from(n).unwrap_or(0));
                let full = part(WIDTH, total);
                let (on, off) = if colour { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
                format!("{on}{}{off}{} ", cells(full, "█"), cells(WIDTH - full, "░"))
            });
            format!("\r\x1b[K{bar}{percent}{texts} texts  {speed} texts/s")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_SECONDS: Duration = Duration::from_secs(2);

    #[test]
    fn a_plain_line_has_no_control_characters() {
        let line = render(Style::Lines, Some(200), 3000, 100, TWO_SECONDS);
        assert_eq!(line, "slipring: 50 %  3,000 texts  1,500 texts/s\n");
        let line = render(Style::Lines, None, 3000, 100, TWO_SECONDS);
        assert_eq!(line, "slipring: 3,000 texts  1,500 texts/s\n");
    }

    #[test]
    fn the_bar_fills_with_the_input() {
        let bar =
            |consumed| render(Style::Bar { colour: false }, Some(48), 1, consumed, TWO_SECONDS);
        for (consumed, cells) in [(0, 0), (24, 12), (48, 24), (99, 24)] {
            assert_eq!(bar(consumed).matches('█').count(), cells);
            assert_eq!(bar(consumed).matches('░').count(), 24 - cells);
        }
        assert!(bar(99).contains("100 %"));
    }

    #[test]
    fn without_colour_there_are_no_colours() {
        let bar = |colour| render(Style::Bar { colour }, Some(2), 1, 1, TWO_SECONDS);
        assert!(bar(true).contains("\x1b[36m"));
        assert!(!bar(false).contains("[36m") && !bar(false).contains("[0m"));
    }

    #[test]
    fn a_bar_fits_on_a_narrow_terminal() {
        let bar = render(Style::Bar { colour: false }, Some(9), 9_999_999_999, 9, TWO_SECONDS);
        assert!(bar.chars().count() < 80, "{bar}");
    }
}
