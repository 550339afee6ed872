//! The causes of an error as text: each of them once.

use std::error::Error;

use crate::Status;

/// What has caused an error, where that is known.
pub(crate) fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<Status>() {
        Some(status) => status.cause(),
        None => error.source(),
    }
}

/// Appends a chain of causes to what was said already.
///
/// Many errors tell their cause in their own text and give it as their source as well: what was told
/// is not told again.
pub(crate) fn append(text: &mut String, mut cause: Option<&(dyn Error + 'static)>) {
    while let Some(error) = cause {
        let told = match error.downcast_ref::<Status>() {
            Some(status) => status.as_cause(),
            None => error.to_string(),
        };
        if !told.is_empty() && !has_told(text, &told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = cause_of(error);
    }
}

/// Whether a text has these words as one of its parts.
fn has_told(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(start, _)| {
        let before = text.get(..start).unwrap_or_default();
        before.is_empty() || before.ends_with([' ', '('])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error that tells its cause, or does not.
    #[derive(Debug)]
    struct Layer {
        name: &'static str,
        tells: bool,
        cause: Option<Box<Layer>>,
    }

    impl std::fmt::Display for Layer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.name)?;
            match &self.cause {
                Some(cause) if self.tells => write!(f, ": {cause}"),
                _ => Ok(()),
            }
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.cause.as_deref().map(|cause| cause as _)
        }
    }

    fn layers(names: &[&'static str], tells: bool) -> Box<Layer> {
        let cause = names.get(1..).filter(|rest| !rest.is_empty());
        Box::new(Layer {
            name: names[0],
            tells,
            cause: cause.map(|rest| layers(rest, tells)),
        })
    }

    /// What a reporter that follows the sources prints.
    fn reported(error: &dyn Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text
    }

    #[test]
    fn each_cause_is_told_once_by_whoever_tells_it() {
        for tells in [false, true] {
            let mut status =
                Status::unavailable("one").with_source(layers(&["two", "three", "four"], tells));
            assert_eq!(reported(&status), "UNAVAILABLE: one: two: three: four");
            // However deep it is: every layer is a line more and no more.
            for _ in 0..20 {
                status = Status::unavailable("again").with_source(status);
            }
            assert_eq!(
                reported(&status),
                "UNAVAILABLE: again: one: two: three: four"
            );
        }
    }

    #[test]
    fn a_cause_is_still_there_to_be_looked_at() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::unavailable("outer")
            .with_source(Status::unavailable("inner").with_source(refused));
        let inner = status.cause().unwrap();
        let inner: &Status = inner.downcast_ref().unwrap();
        let refused: &std::io::Error = inner.cause().unwrap().downcast_ref().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn words_inside_of_others_are_told() {
        let mut text = "UNAVAILABLE: an explanation".to_owned();
        append(&mut text, Some(&*layers(&["plan", "explanation"], false)));
        assert_eq!(text, "UNAVAILABLE: an explanation: plan");
    }

    #[test]
    fn a_call_that_caused_a_failure_is_told_with_its_place() {
        let inner = Status::aborted("locked")
            .with_path("/b.C/D")
            .with_attempt(&"127.0.0.1:9".into(), 2);
        let status = Status::internal("no receipt")
            .with_source(inner)
            .with_path("/a.B/C");
        assert_eq!(
            status.to_string(),
            "INTERNAL: no receipt (method /a.B/C): ABORTED: locked (method /b.C/D, endpoint 127.0.0.1:9, attempt 2)"
        );
    }
}
