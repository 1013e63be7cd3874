use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use slipring::status_page::Hosts;

use super::*;

fn line(role: &str, is_role: bool, worker: u64, state: &'static str) -> Line {
    Line {
        key: (4711, worker),
        host: 4711,
        name: String::new(),
        role: role.to_owned(),
        is_role,
        worker,
        command: "python serve.py --port 8000".to_owned(),
        state,
        rate: Some(1234.0),
        bytes: Some(5.6e7),
        sleeps: Some(12.0),
        done: 98_765,
        died: is_role.then_some(3),
        in_flight: 8,
        queued: 2,
        oldest: Duration::from_millis(12),
        ring: 42,
        p50: Some(Duration::from_micros(512)),
        p99: Some(Duration::from_millis(8)),
        errors: 17,
        note: "worker 4800 was killed by signal 11".to_owned(),
    }
}

fn lines() -> Vec<Line> {
    vec![
        line("embed", true, 2, "ready"),
        line("embed", false, 4800, "busy"),
        line("embed", false, 4801, "dead"),
    ]
}

/// The screen as lines of text, and the colours in it.
fn drawn(size: (u16, u16), lines: &[Line], state: &mut State) -> (Vec<String>, Vec<Color>) {
    let look = Look { at: Instant::now(), hosts: Hosts::default() };
    state.keep_place(lines);
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(frame, &look, lines, state)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells = |row: u16| (0..size.0).map(move |column| &buffer[(column, row)]);
    let text = |row| cells(row).map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned();
    let mut colours: Vec<_> = (0..size.1).flat_map(cells).map(|cell| cell.fg).collect();
    colours.dedup();
    ((0..size.1).map(text).collect(), colours)
}

fn text_of(size: (u16, u16), lines: &[Line]) -> Vec<String> {
    drawn(size, lines, &mut State::new(String::new())).0
}

#[test]
fn at_80_columns_all_but_the_least_important_is_shown() {
    let expected = [
        "slipring: 0 hosts, 3 lines, by host",
        "   HOST ROLE          WORKER STATE     REQ/S  FLY WAIT OLDEST RING   P99 ERRORS",
        "   4711 embed             x2 ready      1.2k    8    2   12ms  42% 8.0ms     17",
        "   4711 embed           4800 busy       1.2k    8    2   12ms  42% 8.0ms     17",
        "   4711 embed           4801 dead       1.2k    8    2   12ms  42% 8.0ms     17",
        "",
        "q quit  s sort  / filter  Enter details",
    ];
    assert_eq!(text_of((80, 7), &lines()), expected);
}

#[test]
fn at_200_columns_the_room_is_used() {
    let shown = text_of((200, 6), &lines());
    let titles = "   HOST ROLE          WORKER STATE     REQ/S   B/S  FLY WAIT OLDEST RING   P50   P99 ERRORS  \
                  DONE DIED SLEEPS/S COMMAND                     LAST ERROR";
    let role = "   4711 embed             x2 ready      1.2k   56M    8    2   12ms  42% 512us 8.0ms     17   \
                99k    3       12 python serve.py --port 8000 worker 4800 was killed by signal 11";
    assert_eq!((shown[1].as_str(), shown[2].as_str()), (titles, role));
    assert!(shown[3].contains("99k    -       12"), "{}", shown[3]);
}

#[test]
fn at_40_columns_what_is_left_can_be_read_and_10_lines_scroll() {
    let many: Vec<Line> = (0..30).map(|n| line(&format!("role-{n}"), false, n, "idle")).collect();
    let mut state = State::new(String::new());
    let shown = drawn((40, 10), &many, &mut state).0;
    assert_eq!(shown[0], "slipring: 0 hosts, lines 1-7 of 30, by h");
    assert_eq!(shown[1], "ROLE         STATE     REQ/S  FLY OLDEST");
    assert_eq!(shown[2], "role-0       idle       1.2k    8   12ms");
    assert_eq!(shown[9], "q quit  s sort  / filter  Enter details");
    state.press(ratatui::crossterm::event::KeyCode::End.into(), &many);
    let shown = drawn((40, 10), &many, &mut state).0;
    assert!(shown[0].contains("lines 24-30 of 30"), "{shown:?}");
    assert_eq!(shown[8], "role-29      idle       1.2k    8   12ms");
}

#[test]
fn what_is_refused_does_not_hide_the_filter() {
    let error = slipring::Config::builder().max_in_flight(0).build().unwrap_err();
    let mut look = Look { at: Instant::now(), hosts: Hosts::default() };
    look.hosts.refused.push((4711, error));
    let shown = summary(&look, &lines(), &State::new("embed".to_owned()), 20);
    assert!(
        shown.starts_with("slipring: 0 hosts, 3 lines, by host, filter: embed, 1 refused (4711: ")
    );
}

#[test]
fn no_size_of_a_terminal_is_too_small() {
    for width in [0, 1, 5, 21, 22, 79] {
        for height in [0, 1, 2, 3] {
            text_of((width, height), &lines());
        }
    }
}

#[test]
fn without_a_line_it_is_said_why() {
    let shown = text_of((NO_HOST.len().try_into().unwrap(), 4), &[]);
    assert_eq!(shown[1], NO_HOST);
    assert!(text_of((30, 5), &[])[1].starts_with("no process of"));
}

#[test]
fn colours_only_repeat_what_the_states_say() {
    let mut state = State::new(String::new());
    assert_eq!(drawn((80, 7), &lines(), &mut state).1, [Color::Reset]);
    state.has_colours = true;
    let colours = drawn((80, 7), &lines(), &mut state).1;
    assert!(colours.contains(&Color::Red) && colours.contains(&Color::Green), "{colours:?}");
}

#[test]
fn wide_names_and_numbers_leave_the_columns_in_their_places() {
    let mut odd =
        line("a-role-with-a-name-that-is-far-too-long-for-it", true, u64::MAX, "not ready");
    (odd.in_flight, odd.queued, odd.errors) = (u64::MAX, u64::MAX, u64::MAX);
    odd.oldest = Duration::from_nanos(u64::MAX);
    odd.role.push('\u{1b}');
    for width in [40, 80, 132, 200, 300] {
        let shown = text_of((width, 5), &[odd.clone(), line("embed", true, 2, "ready")]);
        let end = |line: &str| line.find("FLY").map(|at| at + 3);
        let column = end(&shown[1]).unwrap();
        assert_eq!(shown[3].get(column - 1..column), Some("8"), "{shown:?}");
        assert!(shown.iter().all(|line| !line.contains('\u{1b}')), "{shown:?}");
    }
}
