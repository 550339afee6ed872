//! Names in generated code.

use std::collections::{HashMap, HashSet};

use proc_macro2::{Ident, Span};
use prost_types::FileDescriptorSet;

/// The names of the messages and enums of each package.
pub(crate) type Taken = HashMap<String, HashSet<String>>;

pub(crate) fn taken(descriptors: &FileDescriptorSet) -> Taken {
    let mut taken = Taken::new();
    for file in &descriptors.file {
        let names = taken.entry(file.package().to_owned()).or_default();
        names.extend(
            file.message_type
                .iter()
                .map(|message| upper_camel(message.name())),
        );
        names.extend(file.enum_type.iter().map(|item| upper_camel(item.name())));
    }
    taken
}

/// The name of a service's trait; with `Service` behind it where a message has one of its names.
pub(crate) fn service(name: &str, package: &str, taken: &Taken) -> String {
    let clash = |name: &str| {
        taken.get(package).is_some_and(|names| {
            ["", "Client", "Server"]
                .iter()
                .any(|suffix| names.contains(&format!("{name}{suffix}")))
        })
    };
    if clash(name) {
        format!("{name}Service")
    } else {
        name.to_owned()
    }
}

/// A method's function: as prost named it, but for names that the client has already.
pub(crate) fn function(name: &str) -> Ident {
    match name {
        "new" => Ident::new("new_", Span::call_site()),
        _ => identifier(name),
    }
}

/// An identifier out of a name that may be a keyword, raw or not.
pub(crate) fn identifier(name: &str) -> Ident {
    let name = name.strip_prefix("r#").unwrap_or(name);
    syn::parse_str::<Ident>(name).unwrap_or_else(|_| match name {
        "self" | "super" | "crate" | "Self" => Ident::new(&format!("{name}_"), Span::call_site()),
        _ => Ident::new_raw(name, Span::call_site()),
    })
}

/// `GetFeature` or `getFeature` as `GET_FEATURE`.
pub(crate) fn constant(name: &str) -> Ident {
    Ident::new(&snake(name).to_uppercase(), Span::call_site())
}

/// `RouteGuide` as `route_guide`.
pub(crate) fn snake(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    let characters: Vec<char> = name.chars().collect();
    for (index, &character) in characters.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|index| characters.get(index));
        let next_is_lower = characters
            .get(index + 1)
            .is_some_and(|next| next.is_lowercase());
        let starts = character.is_uppercase()
            && previous.is_some_and(|previous| {
                previous.is_lowercase()
                    || previous.is_ascii_digit()
                    || previous.is_uppercase() && next_is_lower
            });
        if starts {
            words.push('_');
        }
        words.extend(character.to_lowercase());
    }
    words
}

fn upper_camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_uppercase().chain(letters).collect()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (name, expected) in [
            ("RouteGuide", "route_guide"),
            ("getHTTPPage", "get_http_page"),
            ("A", "a"),
            ("V2Api", "v2_api"),
            ("already_snake", "already_snake"),
        ] {
            assert_eq!(snake(name), expected);
        }
    }

    #[test]
    fn keywords_and_taken_names() {
        assert_eq!(function("new").to_string(), "new_");
        assert_eq!(function("r#match").to_string(), "r#match");
        assert_eq!(function("self_").to_string(), "self_");
        assert_eq!(function("connect").to_string(), "connect");
    }

    #[test]
    fn a_service_steps_aside_for_a_message() {
        let taken = Taken::from([(
            "p".to_owned(),
            HashSet::from(["Echo".to_owned(), "StoreClient".to_owned()]),
        )]);
        assert_eq!(service("Echo", "p", &taken), "EchoService");
        assert_eq!(service("Store", "p", &taken), "StoreService");
        assert_eq!(service("Echo", "q", &taken), "Echo");
    }
}
