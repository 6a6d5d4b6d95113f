//! Guest strings made safe to print: a process may be called `\e[2J` to wipe the admin's screen.

use std::fmt::Write;

/// `text` with everything escaped that could move a cursor, start a line or hide: controls, bidirectional
/// overrides, zero-width characters and the line separators.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    escape_to(&mut safe, text);
    safe
}

/// As [`escape`], appending to `safe`.
pub(crate) fn escape_to(safe: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            '\\' => safe.push_str("\\\\"),
            c if c.is_control() && u32::from(c) < 0x100 => write_code(safe, "\\x", u32::from(c), 2),
            c if is_invisible(c) => write_code(safe, "\\u", u32::from(c), 4),
            c => safe.push(c),
        }
    }
}

fn write_code(safe: &mut String, prefix: &str, code: u32, digits: usize) {
    // Writing to a String cannot fail.
    let _ = write!(safe, "{prefix}{code:0digits$x}");
}

/// Characters that change how their neighbours look without being seen (Unicode 15, categories Cf, Zl, Zp).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_terminal_is_never_told_what_to_do() {
        assert_eq!(escape("\x1b[2Jevil"), "\\x1b[2Jevil");
        assert_eq!(escape("a\nfake: alert"), "a\\nfake: alert");
        assert_eq!(escape("\u{9b}31m"), "\\x9b31m");
        assert_eq!(escape("txt\u{202e}exe"), "txt\\u202eexe");
        assert_eq!(escape("a\\x1b"), "a\\\\x1b");
        assert_eq!(escape("grüße 漢字"), "grüße 漢字");
    }
}
