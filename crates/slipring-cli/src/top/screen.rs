//! Draws the table, or the details of one line.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line as TextLine;
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::keys::{Mode, State};
use super::lines::{Line, Look};
use super::once::{TITLES, cells};
use crate::stat;

/// Columns that are left out on narrow screens, the least important first, and what their widths
/// are.
const WIDTHS: [u16; 11] = [7, 22, 9, 6, 6, 5, 5, 6, 5, 6, 6];
const LEFT_OUT: [usize; 4] = [4, 6, 9, 8];

pub(super) fn draw(frame: &mut Frame<'_>, look: &Look, lines: &[Line], state: &mut State) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(TextLine::from(summary(look, lines, state)), head);
    match state.mode {
        Mode::Details => details(frame, body, look, state),
        Mode::Table | Mode::Filter => table(frame, body, lines, state),
    }
    let keys = match state.mode {
        Mode::Table => "q quit  s sort  / filter  Enter details",
        Mode::Filter => "Enter keep the filter  Esc show all",
        Mode::Details => "Esc back  Up Down scroll",
    };
    frame.render_widget(TextLine::from(keys).style(Modifier::DIM), foot);
}

fn summary(look: &Look, lines: &[Line], state: &State) -> String {
    let stale = look.hosts.hosts.iter().filter(|host| host.is_stale).count();
    let mut text = format!("slipring: {} hosts, {} lines", look.hosts.hosts.len(), lines.len());
    let mut add = |what: String| text.push_str(&format!(", {what}"));
    if stale > 0 {
        add(format!("{stale} stale"));
    }
    if let Some((pid, why)) = look.hosts.refused.first() {
        add(format!("{} refused ({pid}: {why})", look.hosts.refused.len()));
    }
    add(format!("by {}", state.order.name()));
    if !state.filter.is_empty() || state.mode == Mode::Filter {
        add(format!("filter: {}", state.filter));
    }
    text
}

fn table(frame: &mut Frame<'_>, area: Rect, lines: &[Line], state: &mut State) {
    let columns = columns(area.width);
    let pick = |cells: [String; 11]| -> Vec<Cell<'static>> {
        let all = cells.into_iter().enumerate();
        all.filter(|(column, _)| columns.contains(column))
            .map(|(_, text)| Cell::from(text))
            .collect()
    };
    let rows = lines.iter().map(|line| Row::new(pick(cells(line))).style(style(line)));
    let widths = columns.iter().filter_map(|column| {
        let width = *WIDTHS.get(*column)?;
        Some(if *column == 1 { Constraint::Min(width) } else { Constraint::Length(width) })
    });
    let titles = Row::new(pick(TITLES.map(str::to_owned))).style(Modifier::BOLD);
    let table = Table::new(rows, widths).header(titles).row_highlight_style(Modifier::REVERSED);
    frame.render_stateful_widget(table, area, &mut state.table);
}

/// The columns that fit.
fn columns(width: u16) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..WIDTHS.len()).collect();
    for left_out in LEFT_OUT {
        let needed: u16 =
            columns.iter().filter_map(|column| WIDTHS.get(*column)).map(|w| w + 1).sum();
        if needed <= width + 1 {
            break;
        }
        columns.retain(|column| *column != left_out);
    }
    columns
}

/// What is wrong can be read without colours, too: it is in the column of the state.
fn style(line: &Line) -> Style {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return Style::new();
    }
    match line.state {
        "dead" | "failed" | "degraded" => Style::new().fg(Color::Red),
        "stale" | "stopped" | "not ready" => Style::new().fg(Color::Yellow),
        "busy" | "credit" => Style::new().fg(Color::Green),
        _ => Style::new(),
    }
}

fn details(frame: &mut Frame<'_>, area: Rect, look: &Look, state: &mut State) {
    let (pid, id) = state.chosen.unwrap_or_default();
    let host = look.hosts.hosts.iter().find(|host| host.pid == pid);
    let text = host.map(|host| {
        let mut host = host.clone();
        host.rows.retain(|row| row.id == id);
        stat::description(&host)
    });
    let text = text.unwrap_or_else(|| "it has ended".to_owned()).replace('\t', "  ");
    let last = u16::try_from(text.lines().count()).unwrap_or(u16::MAX).saturating_sub(area.height);
    state.scroll = state.scroll.min(last);
    frame.render_widget(Paragraph::new(text).scroll((state.scroll, 0)), area);
}
