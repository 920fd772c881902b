//! Policy files as text: statements, their places and their limits.
//!
//! Cedar's parser, validator, evaluator and even the dropping of an expression recurse. The depth of every
//! statement is therefore bounded before Cedar sees it; what is deeper is refused instead of overflowing a stack.

use crate::problem::Place;

/// Longest statement in bytes. The longest sensible ones are lists of networks.
pub(crate) const MAX_STATEMENT_BYTES: usize = 64 * 1024;

/// Deepest statement: one for each operator in a chain, [`BRACKET_DEPTH`] for each bracket around.
pub(crate) const MAX_DEPTH: usize = 128;

/// What a bracket counts. Parsing one takes several times the stack of an operator.
const BRACKET_DEPTH: usize = 4;

/// A policy file and where its lines begin.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
}

/// One statement: from its first token to its semicolon, or to the end of the file if there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    /// Its text.
    pub(crate) text: &'a str,
    /// Byte offset of the text in the file.
    pub(crate) start: usize,
    /// An upper bound of the depth of its syntax tree.
    pub(crate) depth: usize,
}

impl<'a> Source<'a> {
    pub(crate) fn new(name: &'a str, text: &'a str) -> Self {
        let breaks = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            name,
            text,
            line_starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// The place of a byte offset; the end of the file for offsets beyond it.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let line_start = self
            .line_starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let before = self.text.get(line_start..offset).unwrap_or("");
        Place {
            file: self.name.to_owned(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX),
        }
    }

    /// Cuts the file at semicolons outside strings and comments, as Cedar's lexer sees them.
    pub(crate) fn statements(&self) -> Vec<Statement<'a>> {
        let mut statements = Vec::new();
        let mut current: Option<(usize, Depth)> = None;
        let mut tokens = Tokens {
            bytes: self.text.as_bytes(),
            at: 0,
        };
        while let Some((start, token)) = tokens.next_token() {
            let (start, mut depth) = current.take().unwrap_or((start, Depth::default()));
            if token == Token::Semicolon {
                statements.push(self.statement(start, tokens.at, depth));
            } else {
                depth.count(token);
                current = Some((start, depth));
            }
        }
        statements
            .extend(current.map(|(start, depth)| self.statement(start, self.text.len(), depth)));
        statements
    }

    fn statement(&self, start: usize, end: usize, depth: Depth) -> Statement<'a> {
        Statement {
            text: self.text.get(start..end).unwrap_or(""),
            start,
            depth: depth.bound(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    Semicolon,
    /// What can be chained: `.`, `&&`, `||`, `+`, `-`, `*`, `!` and `if`.
    Operator,
    Other,
}

struct Tokens<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Tokens<'_> {
    /// The next token and where it starts; white space and comments are skipped.
    fn next_token(&mut self) -> Option<(usize, Token)> {
        loop {
            let start = self.at;
            let byte = self.peek(0)?;
            self.at += 1;
            let token = match byte {
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                b'/' if self.peek(0) == Some(b'/') => {
                    self.skip_while(|byte| byte != b'\n' && byte != b'\r');
                    continue;
                }
                b'"' => self.string(),
                b'(' | b'[' | b'{' => Token::Open,
                b')' | b']' | b'}' => Token::Close,
                b',' => Token::Comma,
                b';' => Token::Semicolon,
                b'.' | b'+' | b'-' | b'*' | b'!' => Token::Operator,
                b'&' | b'|' => {
                    self.skip_while(|next| next == byte);
                    Token::Operator
                }
                byte if is_word(byte) => {
                    self.skip_while(is_word);
                    match self.bytes.get(start..self.at) {
                        Some(b"if") => Token::Operator,
                        _ => Token::Other,
                    }
                }
                _ => Token::Other,
            };
            return Some((start, token));
        }
    }

    /// The rest of a string literal: to the quote that no backslash precedes, or to the end.
    fn string(&mut self) -> Token {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        self.at = self.at.min(self.bytes.len());
        Token::Other
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, more: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&more) {
            self.at += 1;
        }
    }
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Bounds the depth of a syntax tree from its tokens: items between commas do not nest in each other,
/// operators of one item may, and everything nests in the brackets around it.
#[derive(Debug, Default)]
struct Depth {
    outer: Vec<Level>,
    here: Level,
}

#[derive(Debug, Default, Clone, Copy)]
struct Level {
    operators: usize,
    brackets: usize,
    deepest: usize,
}

impl Level {
    fn bound(self) -> usize {
        self.deepest.max(self.operators + self.brackets)
    }
}

impl Depth {
    fn count(&mut self, token: Token) {
        match token {
            Token::Open => self.outer.push(std::mem::take(&mut self.here)),
            Token::Close => self.close(),
            Token::Comma => {
                self.here = Level {
                    deepest: self.here.bound(),
                    ..Level::default()
                }
            }
            Token::Operator => self.here.operators += 1,
            Token::Semicolon | Token::Other => {}
        }
    }

    fn close(&mut self) {
        let inner = self.here.bound() + BRACKET_DEPTH;
        // A bracket too many is Cedar's to complain about.
        self.here = self.outer.pop().unwrap_or_default();
        self.here.brackets = self.here.brackets.max(inner);
    }

    fn bound(mut self) -> usize {
        while !self.outer.is_empty() {
            self.close();
        }
        self.here.bound()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        Source::new("f", text)
            .statements()
            .into_iter()
            .map(|statement| statement.text)
            .collect()
    }

    fn depth(text: &str) -> usize {
        Source::new("f", text).statements()[0].depth
    }

    #[test]
    fn statements_end_at_semicolons_outside_strings_and_comments() {
        assert_eq!(texts("a; b;"), ["a;", "b;"]);
        assert_eq!(
            texts("// x; y\na \";\\\";\" ; // trailing;\n b"),
            ["a \";\\\";\" ;", "b"]
        );
        assert_eq!(texts("  // only a comment"), [""; 0]);
        assert_eq!(texts("a \"never closed; b;"), ["a \"never closed; b;"]);
        assert_eq!(texts("\"\\"), ["\"\\"]);
    }

    #[test]
    fn places_count_characters_from_one() {
        let source = Source::new("f", "a\n  é€x;\n");
        let at = source.text.find('x').unwrap();
        assert_eq!(
            source.place(at),
            Place {
                file: "f".to_owned(),
                line: 2,
                column: 5
            }
        );
        assert_eq!(source.place(0).to_string(), "f:1:1");
        assert_eq!(source.place(999).line, 3);
    }

    #[test]
    fn depth_grows_with_chains_and_nesting_but_not_with_width() {
        assert_eq!(depth("a + b + c;"), 2);
        assert_eq!(depth("a.b.c && !d;"), 4);
        assert_eq!(depth("[a, b, c, d.e];"), BRACKET_DEPTH + 1);
        assert_eq!(depth("((a));"), 2 * BRACKET_DEPTH);
        assert_eq!(depth("(a) + (b);"), BRACKET_DEPTH + 1);
        assert_eq!(depth("if a then b else if c then d else e;"), 2);
        assert_eq!(depth("((((((("), 7 * BRACKET_DEPTH);
        assert_eq!(depth("))))"), 4 * BRACKET_DEPTH);
    }
}
