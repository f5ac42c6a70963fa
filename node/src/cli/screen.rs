//! Standard output and error, and whether they are a person's terminal.

use std::io::{self, IsTerminal, Write};

/// Writes a line to standard output.
pub(super) fn line(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes a line to standard error. That it cannot be written has nobody to be told to.
pub(super) fn say(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Colours for standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colours {
    on: bool,
}

impl Colours {
    /// On only where a terminal shows them and the user does not mind.
    pub(super) fn of_stdout() -> Colours {
        Colours { on: io::stdout().is_terminal() && !super::colours_refused() }
    }

    #[cfg(test)]
    pub(super) fn off() -> Colours {
        Colours { on: false }
    }

    #[cfg(test)]
    pub(super) fn on() -> Colours {
        Colours { on: true }
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Clears a terminal and goes to its top.
pub(super) const CLEAR: &str = "\x1b[2J\x1b[H";

/// Text from outside, made harmless for a terminal: control characters are escaped.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\tb é \u{1b}[31m\r\n\u{9b}"), "a\tb é \\u{1b}[31m\\r\\n\\u{9b}");
    }
}
