//! Which files are meant: a path, a folder, or a pattern with `*`, `**` and `?`.

/// A pattern over paths within a guest's file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPattern(String);

impl PathPattern {
    /// `/etc/passwd`, `/usr/bin` (all below it), `/home/*/bin/?`, `**/*.so`. `*` and `?` stay within a folder, `**` does not.
    pub fn new(pattern: &str) -> PathPattern {
        PathPattern(pattern.to_owned())
    }

    /// Whether a path is meant.
    pub fn matches(&self, path: &str) -> bool {
        let pattern = self.0.as_bytes();
        if pattern.iter().any(|byte| matches!(byte, b'*' | b'?')) {
            return fits(pattern, path.as_bytes());
        }
        let folder = self.0.strip_suffix('/').unwrap_or(&self.0);
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// One pass, row by row over the pattern: as many steps as the product of both lengths, whatever the pattern.
fn fits(pattern: &[u8], path: &[u8]) -> bool {
    // Whether the pattern so far fits the first n bytes of the path.
    let mut fits: Vec<bool> = std::iter::once(true).chain(path.iter().map(|_| false)).collect();
    let mut rest = pattern;
    while let Some((first, behind)) = rest.split_first() {
        let (any, deep, behind) = match (first, behind) {
            (b'*', [b'*', behind @ ..]) => (true, true, behind),
            (b'*', behind) => (true, false, behind),
            (_, behind) => (false, false, behind),
        };
        rest = behind;
        let mut before = false;
        let mut next = Vec::with_capacity(fits.len());
        let bytes = std::iter::once(None).chain(path.iter().map(Some));
        for (fit, byte) in fits.iter().zip(bytes) {
            let grows = any && next.last() == Some(&true) && byte.is_some_and(|byte| deep || *byte != b'/');
            let one = byte.is_some_and(|byte| byte == first || (*first == b'?' && *byte != b'/'));
            next.push(if any { *fit || grows } else { before && one });
            before = *fit;
        }
        fits = next;
    }
    fits.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_patterns() {
        let told = [
            ("/usr/bin", "/usr/bin/ls", true),
            ("/usr/bin/", "/usr/bin/ls", true),
            ("/usr/bin", "/usr/bin", true),
            ("/usr/bin", "/usr/bingo", false),
            ("/usr/*/ls", "/usr/bin/ls", true),
            ("/usr/*/ls", "/usr/a/b/ls", false),
            ("/usr/**/ls", "/usr/a/b/ls", true),
            ("**/*.so", "/lib/x/y.so", true),
            ("**.so", "/lib/x/y.so", true),
            ("/tmp/?", "/tmp/x", true),
            ("/tmp/?", "/tmp/", false),
            ("/tmp?x", "/tmp/x", false),
            ("*", "/tmp", false),
            ("**", "", true),
        ];
        for (pattern, path, expected) in told {
            assert_eq!(PathPattern::new(pattern).matches(path), expected, "{pattern} {path}");
        }
    }
}
