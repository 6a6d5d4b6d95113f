//! Which VMs a policy or a group is about: `role == "web" && env in ["prod", "test"] && !has(legacy)`.
//!
//! A bare word is a label; `name` and `uuid` are the VM's own. `==` and `!=` compare, `in` and `not in` look in a list, `like` takes
//! `*` and `?`, `has(label)` asks whether the label is there, `all()` is every VM. A label that a VM does not have equals nothing.
//!
//! *Trusts*: the inventory. *Never*: asks the guest.

use crate::error::ParseError;
use std::collections::BTreeMap;

/// Deeper nesting is refused.
const MAX_DEPTH: usize = 64;
/// Longer expressions are refused.
const MAX_BYTES: usize = 16 << 10;

/// An expression over a VM's name, uuid and labels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    /// Every VM.
    All,
    /// The label is there.
    Has(String),
    /// The key's value is one of these.
    In(String, Vec<String>),
    /// The key's value looks like this pattern.
    Like(String, String),
    /// Not so.
    Not(Box<Selector>),
    /// All of them.
    And(Vec<Selector>),
    /// At least one of them.
    Or(Vec<Selector>),
}

/// What a selector can ask of a VM.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The VM's name.
    pub name: &'a str,
    /// Its uuid.
    pub uuid: Option<&'a str>,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl<'a> Subject<'a> {
    fn value(&self, key: &str) -> Option<&'a str> {
        match key {
            "name" => Some(self.name),
            "uuid" => self.uuid,
            label => self.labels.get(label).map(String::as_str),
        }
    }
}

impl Selector {
    /// Whether the VM is meant.
    pub fn selects(&self, vm: Subject<'_>) -> bool {
        match self {
            Selector::All => true,
            Selector::Has(key) => vm.value(key).is_some(),
            Selector::In(key, values) => {
                vm.value(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Selector::Like(key, pattern) => vm.value(key).is_some_and(|value| is_like(value, pattern)),
            Selector::Not(inner) => !inner.selects(vm),
            Selector::And(all) => all.iter().all(|one| one.selects(vm)),
            Selector::Or(any) => any.iter().any(|one| one.selects(vm)),
        }
    }

    /// The labels that it asks for.
    pub fn labels(&self) -> Vec<&str> {
        match self {
            Selector::All => Vec::new(),
            Selector::Has(key) | Selector::In(key, _) | Selector::Like(key, _) => vec![key],
            Selector::Not(inner) => inner.labels(),
            Selector::And(all) | Selector::Or(all) => all.iter().flat_map(Selector::labels).collect(),
        }
    }
}

/// `*` is any text, `?` one character. Linear: the last star is the only one ever gone back to.
fn is_like(value: &str, pattern: &str) -> bool {
    let (value, pattern): (Vec<char>, Vec<char>) = (value.chars().collect(), pattern.chars().collect());
    let (mut v, mut p, mut star) = (0, 0, None);
    while v < value.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, v));
                p += 1;
            }
            Some(c) if *c == '?' || *c == value[v] => (v, p) = (v + 1, p + 1),
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (v, p) = (*from, *at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

impl Token {
    fn told(token: Option<&Token>) -> String {
        match token {
            None => "the end".to_owned(),
            Some(Token::Word(word)) => format!("`{word}`"),
            Some(Token::Text(text)) => format!("{text:?}"),
            Some(Token::Sign(sign)) => format!("`{sign}`"),
        }
    }
}

const SIGNS: [&str; 10] = ["==", "!=", "&&", "||", "!", "(", ")", "[", "]", ","];

fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Token::Sign(sign), sign.len())
        } else if first == '"' || first == '\'' {
            let end =
                rest[1..].find(first).ok_or_else(|| ParseError::new("a quotation mark is not closed"))?;
            (Token::Text(rest[1..=end].to_owned()), end + 2)
        } else {
            let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            if length == 0 {
                let hint = if first == '=' { "; did you mean `==`?" } else { "" };
                return Err(ParseError::new(format!("`{first}` has no meaning here{hint}")));
            }
            (Token::Word(rest[..length].to_owned()), length)
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl std::str::FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Selector, ParseError> {
        if text.len() > MAX_BYTES {
            return Err(ParseError::new(format!("it is longer than {MAX_BYTES} bytes")));
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let selector = parser.any(0)?;
        match parser.peek() {
            None => Ok(selector),
            token => Err(ParseError::new(format!("expected `&&` or `||`, not {}", Token::told(token)))),
        }
    }
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Sign(s)) if *s == sign);
        self.at += usize::from(is);
        is
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Word(w)) if w == word);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, sign: &str) -> Result<(), ParseError> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(ParseError::new(format!("expected `{sign}`, not {}", Token::told(self.peek()))))
    }

    fn any(&mut self, depth: usize) -> Result<Selector, ParseError> {
        if depth > MAX_DEPTH {
            return Err(ParseError::new(format!("it is nested deeper than {MAX_DEPTH}")));
        }
        let mut any = vec![self.all(depth)?];
        while self.takes("||") {
            any.push(self.all(depth)?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Selector::Or(any) })
    }

    fn all(&mut self, depth: usize) -> Result<Selector, ParseError> {
        let mut all = vec![self.one(depth)?];
        while self.takes("&&") {
            all.push(self.one(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Selector::And(all) })
    }

    fn one(&mut self, depth: usize) -> Result<Selector, ParseError> {
        if self.takes("!") {
            if depth > MAX_DEPTH {
                return Err(ParseError::new(format!("it is nested deeper than {MAX_DEPTH}")));
            }
            return Ok(Selector::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes("(") {
            let inner = self.any(depth + 1)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let Some(Token::Word(key)) = self.peek().cloned() else {
            return Err(ParseError::new(format!("expected a label, not {}", Token::told(self.peek()))));
        };
        self.at += 1;
        match key.as_str() {
            "all" if self.takes("(") => self.expect(")").map(|()| Selector::All),
            "has" if self.takes("(") => {
                let Some(Token::Word(label)) = self.peek().cloned() else {
                    return Err(ParseError::new("`has(…)` takes a label"));
                };
                self.at += 1;
                self.expect(")").map(|()| Selector::Has(label))
            }
            _ => self.comparison(key),
        }
    }

    fn comparison(&mut self, key: String) -> Result<Selector, ParseError> {
        if self.takes("==") {
            return Ok(Selector::In(key, vec![self.text()?]));
        }
        if self.takes("!=") {
            return Ok(Selector::Not(Box::new(Selector::In(key, vec![self.text()?]))));
        }
        if self.takes_word("like") {
            return Ok(Selector::Like(key, self.text()?));
        }
        if self.takes_word("in") {
            return Ok(Selector::In(key, self.list()?));
        }
        if self.takes_word("not") && self.takes_word("in") {
            return Ok(Selector::Not(Box::new(Selector::In(key, self.list()?))));
        }
        Err(ParseError::new(format!(
            "expected `==`, `!=`, `in`, `not in` or `like` after `{key}`, not {}",
            Token::told(self.peek())
        )))
    }

    fn text(&mut self) -> Result<String, ParseError> {
        match self.peek().cloned() {
            Some(Token::Text(text)) => {
                self.at += 1;
                Ok(text)
            }
            other => {
                Err(ParseError::new(format!("expected text in quotes, not {}", Token::told(other.as_ref()))))
            }
        }
    }

    fn list(&mut self) -> Result<Vec<String>, ParseError> {
        self.expect("[")?;
        let mut list = Vec::new();
        while !self.takes("]") {
            list.push(self.text()?);
            if !self.takes(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(text: &str) -> bool {
        let labels = [("role", "web"), ("env", "prod")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let vm = Subject { name: "web-1", uuid: None, labels: &BTreeMap::from(labels) };
        text.parse::<Selector>().unwrap().selects(vm)
    }

    #[test]
    fn expressions_mean_what_they_say() {
        for (text, expected) in [
            (r#"role == "web" && env in ["prod"]"#, true),
            (r#"role == "web" && env in ["test"] || name == "web-1""#, true),
            (r#"role == "web" && (env in ["test"] || name == "db")"#, false),
            (r#"role != "web""#, false),
            (r#"missing != "x""#, true),
            (r#"missing == "x""#, false),
            (r#"env not in ["test", "dev",]"#, true),
            (r#"!has(role) || has(uuid)"#, false),
            (r#"name like "web-*" && name like "w?b-1""#, true),
            (r#"name like "*-2""#, false),
            ("all()", true),
            ("env in []", false),
        ] {
            assert_eq!(selects(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let deep = "(".repeat(100_000);
        let not = "!".repeat(10_000);
        for (text, said) in [
            (r#"role = "web""#, "did you mean `==`"),
            (r#"role == web"#, "text in quotes"),
            (r#"role == "web" env"#, "expected `&&`"),
            (r#"role == "web"#, "not closed"),
            ("", "expected a label"),
            ("role", "expected `==`"),
            (r#"role in "web""#, "expected `[`"),
            (&deep, "longer"),
            (&deep[..1000], "nested deeper"),
            (&not, "nested deeper"),
        ] {
            let error = text.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains(said), "{}: {error}", &text[..text.len().min(20)]);
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let labels = BTreeMap::new();
        let name = "a".repeat(10_000);
        let selector = Selector::Like("name".to_owned(), "*a".repeat(2000) + "b");
        assert!(!selector.selects(Subject { name: &name, uuid: None, labels: &labels }));
    }
}
