//! What the keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

use super::lines::{Line, Order};

/// How far a page goes.
const PAGE: u16 = 20;

/// What is shown, and how.
#[derive(Debug)]
pub(super) struct State {
    pub(super) order: Order,
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// Which line is chosen, by its key: lines change their places.
    pub(super) chosen: Option<(u32, u64)>,
    pub(super) table: TableState,
    /// How far the page of details is scrolled.
    pub(super) scroll: u16,
    pub(super) has_colours: bool,
}

/// What the keys go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Table,
    /// Letters go into the filter.
    Filter,
    Details,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    GoOn,
    /// Ctrl-Z: the shell is to have the terminal until it continues this process.
    Suspend,
    End,
}

impl State {
    pub(super) fn new(filter: String) -> Self {
        let (mode, table) = (Mode::Table, TableState::default());
        let (chosen, scroll, has_colours) = (None, 0, false);
        Self { order: Order::Host, filter, mode, chosen, table, scroll, has_colours }
    }

    /// Keeps the same line chosen, wherever it is now; if it is gone, the one that has its place. The page
    /// of details stays that of its line, also of one that is gone or that the filter leaves out by now.
    pub(super) fn keep_place(&mut self, lines: &[Line]) {
        if self.mode == Mode::Details {
            return;
        }
        let place = lines.iter().position(|line| Some(line.key) == self.chosen);
        let last = lines.len().checked_sub(1);
        let beside = last.map(|last| self.table.selected().unwrap_or(0).min(last));
        self.choose(lines, place.or(beside));
    }

    fn choose(&mut self, lines: &[Line], place: Option<usize>) {
        self.table.select(place);
        self.chosen = place.and_then(|place| lines.get(place)).map(|line| line.key);
    }

    pub(super) fn press(&mut self, key: KeyEvent, lines: &[Line]) -> Outcome {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Outcome::End;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            let is_suspend = key.code == KeyCode::Char('z');
            return if is_suspend { Outcome::Suspend } else { Outcome::GoOn };
        }
        match (self.mode, key.code) {
            (Mode::Filter, KeyCode::Char(letter)) => self.filter.push(letter),
            (Mode::Filter, KeyCode::Backspace) => drop(self.filter.pop()),
            (Mode::Filter, KeyCode::Esc) => {
                self.filter.clear();
                self.mode = Mode::Table;
            }
            (Mode::Filter, KeyCode::Enter) => self.mode = Mode::Table,
            (Mode::Filter, _) => {}
            (Mode::Details, KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q')) => {
                self.mode = Mode::Table;
            }
            (Mode::Details, KeyCode::Up | KeyCode::Char('k')) => {
                self.scroll = self.scroll.saturating_sub(1);
            }
            (Mode::Details, KeyCode::Down | KeyCode::Char('j')) => {
                self.scroll = self.scroll.saturating_add(1);
            }
            (Mode::Details, KeyCode::Home) => self.scroll = 0,
            // What is too far is corrected when the page is drawn.
            (Mode::Details, KeyCode::End) => self.scroll = u16::MAX,
            (Mode::Details, KeyCode::PageUp) => self.scroll = self.scroll.saturating_sub(PAGE),
            (Mode::Details, KeyCode::PageDown) => self.scroll = self.scroll.saturating_add(PAGE),
            (_, KeyCode::Char('q') | KeyCode::Esc) => return Outcome::End,
            (Mode::Table, KeyCode::Char('s')) => self.order = self.order.next(),
            (Mode::Table, KeyCode::Char('/')) => self.mode = Mode::Filter,
            (Mode::Table, KeyCode::Enter) if self.chosen.is_some() => {
                (self.mode, self.scroll) = (Mode::Details, 0);
            }
            (Mode::Table, KeyCode::Up | KeyCode::Char('k')) => self.step(lines, -1),
            (Mode::Table, KeyCode::Down | KeyCode::Char('j')) => self.step(lines, 1),
            (Mode::Table, KeyCode::PageUp) => self.step(lines, -isize::from(PAGE.cast_signed())),
            (Mode::Table, KeyCode::PageDown) => self.step(lines, isize::from(PAGE.cast_signed())),
            (Mode::Table, KeyCode::Home) => self.step(lines, isize::MIN),
            (Mode::Table, KeyCode::End) => self.step(lines, isize::MAX),
            _ => {}
        }
        Outcome::GoOn
    }

    fn step(&mut self, lines: &[Line], by: isize) {
        let last = lines.len().saturating_sub(1);
        let place = self.table.selected().unwrap_or(0).saturating_add_signed(by).min(last);
        self.choose(lines, (!lines.is_empty()).then_some(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &mut State, code: KeyCode) -> Outcome {
        state.press(KeyEvent::from(code), &[])
    }

    #[test]
    fn letters_go_into_the_filter_while_it_is_typed() {
        let mut state = State::new(String::new());
        for code in [KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Char('x')] {
            assert_eq!(press(&mut state, code), Outcome::GoOn);
        }
        press(&mut state, KeyCode::Backspace);
        assert_eq!((state.filter.as_str(), state.mode), ("q", Mode::Filter));
        press(&mut state, KeyCode::Enter);
        assert_eq!((state.filter.as_str(), state.mode), ("q", Mode::Table));
        press(&mut state, KeyCode::Char('/'));
        press(&mut state, KeyCode::Esc);
        assert_eq!((state.filter.as_str(), state.mode), ("", Mode::Table));
        assert_eq!(press(&mut state, KeyCode::Char('q')), Outcome::End);
    }

    fn line(number: u64) -> Line {
        Line { key: (1, number), ..Line::default() }
    }

    #[test]
    fn a_line_that_is_gone_gives_its_place_and_keeps_its_details() {
        let mut state = State::new(String::new());
        let all: Vec<Line> = (0..4).map(line).collect();
        state.keep_place(&all);
        state.press(KeyCode::End.into(), &all);
        state.press(KeyCode::Up.into(), &all);
        assert_eq!(state.chosen, Some((1, 2)));
        let left = [line(0), line(1), line(3)];
        state.press(KeyCode::Enter.into(), &all);
        state.keep_place(&left);
        assert_eq!(
            (state.mode, state.chosen),
            (Mode::Details, Some((1, 2))),
            "not those of another"
        );
        state.press(KeyCode::Esc.into(), &left);
        state.keep_place(&left);
        assert_eq!(state.chosen, Some((1, 3)), "the next one");
        state.keep_place(&left[..1]);
        assert_eq!(state.chosen, Some((1, 0)));
    }

    #[test]
    fn without_a_line_there_are_no_details_and_control_c_always_ends() {
        let mut state = State::new(String::new());
        state.keep_place(&[]);
        for code in [KeyCode::Down, KeyCode::PageUp, KeyCode::Enter] {
            assert_eq!(press(&mut state, code), Outcome::GoOn);
        }
        assert_eq!((state.mode, state.chosen), (Mode::Table, None));
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        state.mode = Mode::Filter;
        assert_eq!(state.press(key, &[]), Outcome::End);
    }

    #[test]
    fn other_control_keys_are_no_letters_and_control_z_suspends() {
        let mut state = State::new(String::new());
        let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        for mode in [Mode::Table, Mode::Filter, Mode::Details] {
            state.mode = mode;
            assert_eq!(state.press(control('z'), &[]), Outcome::Suspend);
            assert_eq!(state.press(control('q'), &[]), Outcome::GoOn);
            assert_eq!((state.mode, state.filter.as_str()), (mode, ""));
        }
    }
}
