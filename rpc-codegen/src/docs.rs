//! Comments of `.proto` files as rustdoc.
//!
//! They are rarely meant as Markdown: nothing in one becomes a tag, a link to something that is not
//! there, or a test. Lists, `code` and addresses stay what they are, and fenced blocks are text.

use proc_macro2::TokenStream;
use prost_build::Comments;
use prost_types::FileDescriptorSet;
use quote::quote;

/// Rewrites all comments, before prost copies them onto messages and hands over those of services.
pub(crate) fn make_safe(files: &mut FileDescriptorSet) {
    let locations = files
        .file
        .iter_mut()
        .filter_map(|file| file.source_code_info.as_mut())
        .flat_map(|info| &mut info.location);
    for location in locations {
        let comments = [
            &mut location.leading_comments,
            &mut location.trailing_comments,
        ];
        for comment in comments.into_iter().flatten() {
            *comment = safe(comment);
        }
        // prost writes these as comments of Rust, which are nothing to rustdoc.
        location.leading_detached_comments.clear();
    }
}

/// The lines of a service's or method's documentation, out of comments that are safe.
pub(crate) fn of(comments: &Comments, fallback: &str) -> Vec<String> {
    let blank = |line: &String| line.trim().is_empty();
    let mut lines: Vec<String> = Vec::new();
    for block in [&comments.leading, &comments.trailing] {
        if block.iter().all(blank) {
            continue;
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        let mut in_fence = false;
        for line in block {
            let line = line.strip_prefix(' ').unwrap_or(line);
            if line.starts_with("```") || line.starts_with("~~~") {
                in_fence = !in_fence;
            }
            lines.push(if in_fence {
                line.to_owned()
            } else {
                link(line)
            });
        }
    }
    if lines.is_empty() {
        lines.push(fallback.to_owned());
    }
    lines
}

/// These lines as attributes, which are printed as `///`.
pub(crate) fn attributes(lines: &[String]) -> TokenStream {
    let lines = lines.iter().map(|line| format!(" {line}"));
    quote!(#(#[doc = #lines])*)
}

/// Addresses in `<>`, as prost puts those of messages.
fn link(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = address(rest) {
        let (before, found) = rest.split_at(start);
        let (found, after) = found.split_at(end_of_address(found));
        text.extend([before, "<", found, ">"]);
        rest = after;
    }
    text + rest
}

/// A comment in which only lists, code in one line, fenced text and addresses are Markdown.
fn safe(comment: &str) -> String {
    let lines: Vec<&str> = comment.lines().collect();
    let mut text = String::with_capacity(comment.len());
    let mut index = 0;
    while let Some(&line) = lines.get(index) {
        index += 1;
        let fence = ["```", "~~~"]
            .into_iter()
            .find(|fence| line.trim_start().starts_with(fence));
        let length = fence.and_then(|fence| {
            let mut rest = lines.iter().skip(index);
            rest.position(|line| line.trim_start().starts_with(fence))
        });
        if let (Some(fence), Some(length)) = (fence, length) {
            text.extend([" ", fence, "text\n"]);
            for line in lines.iter().skip(index).take(length) {
                text.extend([line, "\n"]);
            }
            text.extend([" ", fence, "\n"]);
            index += length + 1;
        } else {
            let line = escape(line);
            text.extend([if line.is_empty() { "" } else { " " }, &line, "\n"]);
        }
    }
    text
}

/// A line outside of a fence.
fn escape(line: &str) -> String {
    // Four spaces of indentation would make a block of code, which rustdoc runs; also within an item
    // of a list.
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lone_backtick = line.matches('`').count() % 2 == 1 || line.contains("``");
    let mut text = String::with_capacity(line.len());
    let mut rest = line.as_str();
    let mut in_code = false;
    while let Some(character) = rest.chars().next() {
        if !in_code && address(rest) == Some(0) {
            let (found, after) = rest.split_at(end_of_address(rest));
            let plain = !found.contains(['<', '>', '[', ']', '`', '\\']);
            if plain {
                text.push_str(found);
            } else {
                escape_all(found, &mut text);
            }
            rest = after;
            continue;
        }
        // `<https://…>` is without its brackets: they come back, as for every address.
        if !in_code && character == '<' && address(&rest[1..]) == Some(0) {
            let inside = &rest[1..];
            let end = inside.find(['>', ' ']).unwrap_or(inside.len());
            let (found, after) = inside.split_at(end);
            if let Some(after) = after.strip_prefix('>')
                && end_of_address(found) == found.len()
                && (after.is_empty() || after.starts_with([' ', ')']))
            {
                text.push_str(found);
                rest = after;
                continue;
            }
        }
        match character {
            '`' if !lone_backtick => in_code = !in_code,
            _ if in_code => {}
            '[' | ']' | '<' | '>' | '`' | '~' | '\\' => text.push('\\'),
            _ => {}
        }
        text.push(character);
        rest = &rest[character.len_utf8()..];
    }
    text
}

/// An address that could end the brackets around it: text, and no link.
fn escape_all(address: &str, text: &mut String) {
    for character in address.chars() {
        if character.is_ascii_punctuation() {
            text.push('\\');
        }
        text.push(character);
    }
}

/// Where the next address starts.
fn address(text: &str) -> Option<usize> {
    let of = |scheme| text.find(scheme);
    match (of("http://"), of("https://")) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Where an address ends, by prost's rule.
fn end_of_address(text: &str) -> usize {
    text.find(|character: char| character.is_whitespace() || character == ')')
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_becomes_a_link_a_tag_or_a_test() {
        for (line, expected) in [
            ("    let x = [a](b) <T>;", "let x = \\[a\\](b) \\<T\\>;"),
            ("```rust", "\\`\\`\\`rust"),
            ("~~~", "\\~\\~\\~"),
            ("-      code", "- code"),
            ("\\[x\\]", "\\\\\\[x\\\\\\]"),
            ("`Vec<T>` and [T]", "`Vec<T>` and \\[T\\]"),
            ("open ` and [T]", "open \\` and \\[T\\]"),
        ] {
            assert_eq!(escape(line), expected);
        }
    }

    #[test]
    fn addresses_stay_addresses() {
        for (line, expected) in [
            ("See https://a.b/c_d.", "See <https://a.b/c_d.>"),
            ("See <https://a.b/c> now", "See <https://a.b/c> now"),
            ("(http://a.b)", "(<http://a.b>)"),
            ("https://a.b/<c>", "https\\:\\/\\/a\\.b\\/\\<c\\>"),
        ] {
            assert_eq!(link(&escape(line)), expected);
        }
    }

    #[test]
    fn a_fence_is_text_and_an_open_one_is_none() {
        assert_eq!(
            safe(" a\n ```rust\n  x[0]\n ```\n b\n"),
            " a\n ```text\n  x[0]\n ```\n b\n"
        );
        assert_eq!(safe(" ```\n x\n"), " \\`\\`\\`\n x\n");
    }
}
