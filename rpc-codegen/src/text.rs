//! Rust text with lines of at most 100 characters, but for single names and types that are longer.

/// The longest line.
const WIDTH: usize = 100;

/// Text and how far it is indented.
#[derive(Debug, Default)]
pub(crate) struct Text {
    text: String,
    depth: usize,
}

impl Text {
    pub(crate) fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n("    ", self.depth));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    /// A line, and what follows is within it.
    pub(crate) fn open(&mut self, line: &str) {
        self.line(line);
        self.depth += 1;
    }

    /// One line within the last.
    pub(crate) fn indented(&mut self, line: &str) {
        self.depth += 1;
        self.line(line);
        self.depth -= 1;
    }

    /// The end of what was opened.
    pub(crate) fn close(&mut self, line: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.line(line);
    }

    pub(crate) fn docs(&mut self, lines: &[String]) {
        for line in lines {
            self.line(format!("/// {line}").trim_end());
        }
    }

    fn fits(&self, line: &str) -> bool {
        self.depth * 4 + line.chars().count() <= WIDTH
    }

    /// `head = value;`, or the value on a line of its own, or a call's arguments each on one.
    pub(crate) fn assign(&mut self, head: &str, function: &str, arguments: &[&str], tail: &str) {
        let call = format!("{function}({}){tail};", arguments.join(", "));
        let line = format!("{head} = {call}");
        if self.fits(&line) {
            self.line(&line);
        } else if self.fits(&format!("    {call}")) {
            self.line(&format!("{head} ="));
            self.indented(&call);
        } else {
            self.list(
                &format!("{head} = {function}("),
                arguments,
                &format!("){tail};"),
            );
        }
    }

    /// A function's head, its parameters on one line or each on one.
    pub(crate) fn function(&mut self, head: &str, parameters: &[&str], tail: &str) {
        let line = format!("{head}({}){tail}", parameters.join(", "));
        if self.fits(&line) {
            self.line(&line);
        } else {
            self.list(&format!("{head}("), parameters, &format!("){tail}"));
        }
    }

    /// A call whose last argument is a closure with these statements.
    pub(crate) fn call_with_closure(&mut self, head: &str, statements: &[&str], end: &str) {
        if let [only] = statements {
            let line = format!("{head} {only}{end}");
            if self.fits(&line) {
                return self.line(&line);
            }
        }
        self.open(&format!("{head} {{"));
        for statement in statements {
            self.line(statement);
        }
        self.close(&format!("}}{end}"));
    }

    /// Names out of a module.
    pub(crate) fn export(&mut self, module: &str, names: &[&str]) {
        match names {
            [] => {}
            [only] => self.line(&format!("pub use {module}::{only};")),
            _ => {
                let line = format!("pub use {module}::{{{}}};", names.join(", "));
                if self.fits(&line) {
                    self.line(&line);
                } else {
                    self.list(&format!("pub use {module}::{{"), names, "};");
                }
            }
        }
    }

    fn list(&mut self, head: &str, items: &[&str], tail: &str) {
        self.open(head);
        for item in items {
            self.line(&format!("{item},"));
        }
        self.close(tail);
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}
