//! Comments of `.proto` files as rustdoc.

use proc_macro2::TokenStream;
use prost_build::Comments;
use quote::quote;

/// The leading comment, made safe: nothing in it becomes a link, a tag or a test.
pub(crate) fn of(comments: &Comments, fallback: &str) -> TokenStream {
    let mut lines: Vec<String> = comments
        .leading
        .iter()
        .flat_map(|text| text.lines())
        .map(escape)
        .collect();
    if lines.iter().all(|line| line.trim().is_empty()) {
        lines = vec![fallback.to_owned()];
    }
    let lines = lines.iter().map(|line| format!(" {line}"));
    quote!(#(#[doc = #lines])*)
}

fn escape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    // Four spaces of indentation would make a code block, which rustdoc runs.
    for character in line.trim_start().chars() {
        if matches!(character, '[' | ']' | '<' | '>' | '`' | '*' | '_' | '#') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_becomes_a_link_or_a_test() {
        assert_eq!(
            escape("    let x = [a](b) <T>;"),
            "let x = \\[a\\](b) \\<T\\>;"
        );
        assert_eq!(escape("```rust"), "\\`\\`\\`rust");
    }
}
