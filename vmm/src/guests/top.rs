//! `trapline top`: what a guest does to its devices, as it happens.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue, terminal};
use signal_hook::consts::{SIGHUP, SIGTERM};
use trapline_control::api::{GetStatistics, Statistics};
use trapline_control::{AskError, Client, GuestName};

use super::rates::{Rates, Sort, rates};
use super::{say, say_on, this};
use crate::{statistics, stream};

/// What is wanted of `top`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopOptions {
    /// The guest; without it the only one there is.
    pub name: Option<GuestName>,
    /// Prints one table and ends.
    pub once: bool,
    /// Prints lines of JSON.
    pub json: bool,
    /// How rows are sorted.
    pub sort: Sort,
    /// Time between two looks.
    pub delay: Duration,
}

/// Shows the guest until it ends or its user has seen enough.
pub(super) fn top(options: &TopOptions) -> anyhow::Result<()> {
    let mut guest = this(options.name.as_ref(), "top")?;
    if options.once || options.json {
        return print(&mut guest, options);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("trapline top: this is no terminal; --once and --json need none");
    }
    show(&mut guest, options)
}

fn look(guest: &mut Client) -> Result<Statistics, AskError> {
    guest.ask::<GetStatistics>(&())
}

/// Prints one table or line of JSON, or a line of JSON after each look until the guest ends or nobody
/// reads on.
fn print(guest: &mut Client, options: &TopOptions) -> anyhow::Result<()> {
    let mut before = look(guest)?;
    loop {
        std::thread::sleep(options.delay);
        let after = match look(guest) {
            Err(AskError::Ended(_) | AskError::NoGuest(_)) if !options.once => return Ok(()),
            after => after?,
        };
        let mut rates = rates(guest.name().as_str(), &before, &after);
        rates.sort(options.sort);
        let text = if options.json {
            serde_json::to_string(&rates)? + "\n"
        } else {
            let lines = rates.lines(statistics::columns());
            let lines: String = lines.iter().map(|line| format!("{}\n", line.trim_end())).collect();
            title(&rates, &after, options.sort) + "\n" + &lines
        };
        if !say_on(&text)? || options.once {
            return Ok(());
        }
        before = after;
    }
}

fn title(rates: &Rates, statistics: &Statistics, sort: Sort) -> String {
    let seconds = Duration::from_nanos(statistics.uptime_ns).as_secs();
    let vcpus = if rates.vcpu_count == 1 { "vCPU" } else { "vCPUs" };
    format!(
        "{}: up {}:{:02}:{:02}, {} {vcpus}, {:.0} exits/s, by {}",
        rates.guest,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        rates.vcpu_count,
        rates.exits,
        sort.name()
    )
}

/// The terminal, as a screen of ours until it is dropped.
struct Screen;

impl Screen {
    fn open() -> anyhow::Result<Self> {
        terminal::enable_raw_mode().context("cannot set up the terminal")?;
        let screen = Self;
        execute!(std::io::stdout(), EnterAlternateScreen, cursor::Hide)
            .context("cannot write to standard output")?;
        Ok(screen)
    }

    /// Shows the table, as far as there is room.
    fn draw(&self, rates: &Rates, title: &str) -> std::io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let columns = usize::from(columns);
        let mut lines = vec![title.to_owned()];
        lines.extend(rates.lines(columns));
        if lines.len() == 2 {
            lines.push("nothing is accessed".to_owned());
        }
        // In one piece, so that nobody sees half of it.
        let mut out = Vec::new();
        queue!(out, cursor::MoveTo(0, 0))?;
        for (at, line) in lines.iter().take(usize::from(rows).saturating_sub(1)).enumerate() {
            let attribute = if at == 1 { Attribute::Reverse } else { Attribute::Reset };
            let line: String = line.chars().take(columns).collect();
            queue!(out, SetAttribute(attribute))?;
            write!(out, "{line}")?;
            queue!(out, SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
            write!(out, "\r\n")?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        let help = "q: quit  s: sort by the next  e r w t n: by exits, reads, writes, time, name";
        let help: String = help.chars().take(columns.saturating_sub(1)).collect();
        queue!(out, cursor::MoveTo(0, rows.saturating_sub(1)))?;
        write!(out, "{help}")?;
        Ok(stream::write_all(rustix::stdio::stdout(), &out, None)?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(std::io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// What a key means.
enum Key {
    Quit,
    Sort(Sort),
    Redraw,
    Nothing,
}

fn show(guest: &mut Client, options: &TopOptions) -> anyhow::Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&over)).context("cannot catch signals")?;
    }
    let mut before = look(guest)?;
    let mut sort = options.sort;
    // Something to see at once; rates take a second look.
    let mut shown = rates(guest.name().as_str(), &before, &before);
    let screen = Screen::open()?;
    let mut due = Instant::now() + options.delay;
    loop {
        shown.sort(sort);
        let drawn = screen.draw(&shown, &title(&shown, &before, sort));
        drawn.context("cannot write to standard output")?;
        match wait(due, sort, &over)? {
            Key::Quit => return Ok(()),
            Key::Sort(by) => sort = by,
            Key::Redraw => {}
            Key::Nothing => {
                let after = match look(guest) {
                    Err(AskError::Ended(_) | AskError::NoGuest(_)) => {
                        drop(screen);
                        return say(&format!("guest {} has ended\n", guest.name()));
                    }
                    after => after?,
                };
                shown = rates(guest.name().as_str(), &before, &after);
                before = after;
                due = Instant::now() + options.delay;
            }
        }
    }
}

/// Waits for a key until then.
fn wait(due: Instant, sort: Sort, over: &AtomicBool) -> anyhow::Result<Key> {
    loop {
        if over.load(Ordering::Relaxed) {
            return Ok(Key::Quit);
        }
        let left = due.saturating_duration_since(Instant::now());
        match event::poll(left) {
            Ok(true) => {}
            Ok(false) => return Ok(Key::Nothing),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read from the terminal"),
        }
        match event::read().context("cannot read from the terminal")? {
            Event::Resize(..) => return Ok(Key::Redraw),
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('c') if control => return Ok(Key::Quit),
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(Key::Quit),
                    KeyCode::Char('s') => return Ok(Key::Sort(sort.next())),
                    KeyCode::Char(letter) => {
                        let named = |by: &Sort| by.name().starts_with(letter);
                        if let Some(by) = Sort::ALL.into_iter().find(named) {
                            return Ok(Key::Sort(by));
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}
