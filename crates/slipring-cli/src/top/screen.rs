//! Draws the table, or the details of one line.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line as TextLine;
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};

use super::columns::{Column, fitting};
use super::details;
use super::keys::{Mode, State};
use super::lines::{Line, Look};
use crate::stat::NO_HOST;

pub(super) fn draw(frame: &mut Frame<'_>, look: &Look, lines: &[Line], state: &mut State) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    match state.mode {
        Mode::Details => show_details(frame, body, look, state),
        Mode::Table | Mode::Filter if lines.is_empty() => {
            let nothing = match look.hosts.hosts.is_empty() {
                true => NO_HOST,
                false => "no line contains the filter",
            };
            frame.render_widget(Paragraph::new(nothing).wrap(Wrap { trim: false }), body);
        }
        Mode::Table | Mode::Filter => table(frame, body, lines, state),
    }
    // After the table, which knows how far it is scrolled then.
    let shown = summary(look, lines, state, usize::from(body.height.saturating_sub(1)));
    frame.render_widget(TextLine::from(shown), head);
    let keys = match state.mode {
        Mode::Table => "q quit  s sort  / filter  Enter details",
        Mode::Filter => "Enter keep the filter  Esc show all",
        Mode::Details => "Esc back  Up Down scroll",
    };
    frame.render_widget(TextLine::from(keys).style(Modifier::DIM), foot);
}

/// The first line. `room` is for how many lines there is place.
fn summary(look: &Look, lines: &[Line], state: &State, room: usize) -> String {
    let stale = look.hosts.hosts.iter().filter(|host| host.is_stale).count();
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let mut text = format!("slipring: {}", count(look.hosts.hosts.len(), "host"));
    let mut add = |what: String| text.push_str(&format!(", {what}"));
    let first = state.table.offset();
    match state.mode {
        Mode::Table | Mode::Filter if lines.len() > room => {
            add(format!(
                "lines {}-{} of {}",
                first + 1,
                lines.len().min(first + room),
                lines.len()
            ));
        }
        _ => add(count(lines.len(), "line")),
    }
    if stale > 0 {
        add(format!("{stale} stale"));
    }
    add(format!("by {}", state.order.name()));
    if !state.filter.is_empty() || state.mode == Mode::Filter {
        add(format!("filter: {}", state.filter));
    }
    if let Some((pid, why)) = look.hosts.refused.first() {
        add(format!("{} refused ({pid}: {why})", look.hosts.refused.len()));
    }
    text
}

fn table(frame: &mut Frame<'_>, area: Rect, lines: &[Line], state: &mut State) {
    let columns = fitting(area.width, lines);
    let cell = |column: Column, text: String| {
        let text = TextLine::from(text);
        Cell::from(if column.is_number() { text.right_aligned() } else { text })
    };
    let rows = lines.iter().map(|line| {
        let cells = columns.iter().map(|(column, _)| cell(*column, column.cell(line)));
        Row::new(cells).style(if state.has_colours { colour(line) } else { Style::new() })
    });
    let titles = columns.iter().map(|(column, _)| cell(*column, column.title().to_owned()));
    let titles = Row::new(titles).style(Modifier::BOLD);
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let table = Table::new(rows, widths).header(titles).row_highlight_style(Modifier::REVERSED);
    frame.render_stateful_widget(table, area, &mut state.table);
}

/// What is wrong can be read without colours, too: it is in the column of the state.
fn colour(line: &Line) -> Style {
    match line.state {
        "dead" | "failed" | "degraded" => Style::new().fg(Color::Red),
        "stale" | "stopped" | "not ready" => Style::new().fg(Color::Yellow),
        "busy" | "credit" => Style::new().fg(Color::Green),
        _ => Style::new(),
    }
}

fn show_details(frame: &mut Frame<'_>, area: Rect, look: &Look, state: &mut State) {
    let (pid, id) = state.chosen.unwrap_or_default();
    let host = look.hosts.hosts.iter().find(|host| host.pid == pid);
    let found = host.and_then(|host| Some((host, host.rows.iter().find(|row| row.id == id)?)));
    let lines = found.map(|(host, row)| details::lines(host, row, usize::from(area.width)));
    let lines = lines.unwrap_or_else(|| vec!["it has ended".to_owned()]);
    let last = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(area.height);
    state.scroll = state.scroll.min(last);
    let lines: Vec<TextLine<'_>> = lines.into_iter().map(TextLine::from).collect();
    frame.render_widget(Paragraph::new(lines).scroll((state.scroll, 0)), area);
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
