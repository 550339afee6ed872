use super::*;
use crate::hpack::Decoder;

fn decoder() -> Decoder {
    Decoder::new(MAX_TABLE, 1 << 20, 1000)
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Fields {
    decoder.decode(block).unwrap().fields().collect()
}

fn request(path: &str) -> Template {
    Template::new(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "127.0.0.1:50051"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        .into_iter()
        .collect(),
    )
}

#[test]
fn a_template_is_a_handful_of_octets_the_second_time() {
    let (mut encoder, mut decoder) = (Encoder::default(), decoder());
    let mut template = request("/a.B/C");
    for round in 0..3 {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.template(&mut template, &mut out);
        assert_eq!(&decoded(&mut decoder, &out), template.fields());
        assert!(round == 0 || out.len() == 6, "{out:x?}");
    }
}

#[test]
fn templates_follow_the_table() {
    let (mut encoder, mut decoder) = (Encoder::default(), decoder());
    let mut templates: Vec<_> = (0..500)
        .map(|number| request(&format!("/a.B/Method{number}")))
        .collect();
    for round in 0..40 {
        for template in &mut templates {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            encoder.template(template, &mut out);
            let timeout = format!("{round}S");
            encoder.rest(
                &[("grpc-timeout", &*timeout)].into_iter().collect(),
                &mut out,
            );
            let mut expected = template.fields().clone();
            expected.push("grpc-timeout", timeout);
            assert_eq!(decoded(&mut decoder, &out), expected, "{round}");
        }
    }
}

#[test]
fn sizes_are_told_and_kept() {
    let (mut encoder, mut decoder) = (Encoder::default(), decoder());
    let mut template = request("/a.B/C");
    let mut send = |encoder: &mut Encoder, out: &mut Vec<u8>| {
        out.clear();
        encoder.begin(out);
        encoder.template(&mut template, out);
        assert_eq!(&decoded(&mut decoder, out), template.fields());
    };
    let mut out = Vec::new();
    send(&mut encoder, &mut out);
    send(&mut encoder, &mut out);
    encoder.set_max_table_size(0);
    send(&mut encoder, &mut out);
    assert_eq!(out[0], 0x20);
    send(&mut encoder, &mut out);
    encoder.set_max_table_size(0);
    encoder.set_max_table_size(1 << 20);
    send(&mut encoder, &mut out);
    assert_eq!(out[..2], [0x3f, 0xe1]);
    send(&mut encoder, &mut out);
    assert_eq!(out.len(), 6);
    encoder.set_max_table_size(100);
    for _ in 0..3 {
        send(&mut encoder, &mut out);
    }
}

#[test]
fn what_changes_each_time_stays_out_of_the_table() {
    let (mut encoder, mut decoder) = (Encoder::default(), decoder());
    let mut sizes = Vec::new();
    for number in 0..2000 {
        let fields: Fields = [
            ("x-tenant", "blue"),
            ("x-request-id", &format!("request-{number}")),
            ("authorization", "Bearer secret"),
        ]
        .into_iter()
        .collect();
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.rest(&fields, &mut out);
        assert_eq!(decoded(&mut decoder, &out), fields);
        sizes.push(out.len());
    }
    // The tenant is an index from the third block on, and the token is never one.
    assert!(sizes[10] < sizes[0] && sizes[10] > 20, "{sizes:?}");
    assert!(encoder.table.room() > MAX_TABLE - 100);
}

#[test]
fn secrets_are_never_indexed() {
    let mut encoder = Encoder::default();
    let mut out = Vec::new();
    encoder.rest(&[("authorization", "x")].into_iter().collect(), &mut out);
    // The name has index 23 of the static table.
    assert_eq!(out, [0x1f, 23 - 15, 1, b'x']);
}

#[test]
fn random_fields_come_back() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20 {
        let (mut encoder, mut decoder) = (Encoder::default(), decoder());
        for _ in 0..200 {
            let mut fields = Fields::new();
            for _ in 0..random.usize(0..10) {
                let name = format!("n{}", random.u8(0..30));
                let value: Vec<u8> = (0..random.usize(0..60)).map(|_| random.u8(..)).collect();
                fields.push(
                    name,
                    if random.bool() {
                        value
                    } else {
                        b"often".to_vec()
                    },
                );
            }
            if random.u8(..) < 10 {
                encoder.set_max_table_size(random.usize(0..5000));
            }
            let mut out = Vec::new();
            encoder.begin(&mut out);
            encoder.rest(&fields, &mut out);
            let decoded = decoded(&mut decoder, &out);
            assert_eq!(decoded.len(), fields.len());
            // Names may change places.
            for (name, _) in fields.iter() {
                let of_name = |list: &Fields| -> Fields {
                    list.iter().filter(|field| field.0 == name).collect()
                };
                assert_eq!(of_name(&decoded), of_name(&fields));
            }
        }
    }
}

/// However many fields a peer sends with each call, those that stay are a prefix that the decoder
/// knows, and the one that changes comes behind.
#[test]
fn what_stays_comes_before_what_changes() {
    let (mut encoder, mut decoder) = (Encoder::default(), decoder());
    let mut template = request("/a.B/C");
    let mut serials = Vec::new();
    for call in 0..100 {
        let fields: Fields = (0..50)
            .map(|place| match place {
                0 => ("x-entry-0".to_owned(), call.to_string()),
                _ => (format!("x-entry-{place}"), "a value that stays".to_owned()),
            })
            .collect();
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.template(&mut template, &mut out);
        encoder.rest(&fields, &mut out);
        let block = decoder.decode(&out).unwrap();
        assert_eq!(
            block.fields().count(),
            template.fields().len() + fields.len()
        );
        if call > 50 {
            let rest: Vec<_> = block.rest.iter().collect();
            assert_eq!(rest, [(&b"x-entry-0"[..], call.to_string().as_bytes())]);
            serials.push(block.prefix.unwrap().serial);
        }
    }
    serials.dedup();
    assert_eq!(serials.len(), 1);
}

#[test]
fn fields_of_one_name_stay_in_order() {
    let (mut encoder, mut decoder) = (Encoder::default(), decoder());
    for round in 0..20 {
        let changes = round.to_string();
        let fields: Fields = [
            ("k", "a"),
            ("k", &changes),
            ("other", "b"),
            ("k", "a"),
            ("k", "c"),
        ]
        .into_iter()
        .collect();
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.rest(&fields, &mut out);
        let decoded = decoded(&mut decoder, &out);
        let of_k =
            |list: &Fields| -> Fields { list.iter().filter(|field| field.0 == b"k").collect() };
        assert_eq!(of_k(&decoded), of_k(&fields), "{round}");
        assert_eq!(decoded.find(b"other"), Some(&b"b"[..]));
    }
}

/// A value that comes in a few blocks and never again, as that of a user or a tenant, gets into the
/// table; it must not push out for good what all blocks have.
#[test]
fn what_comes_a_few_times_does_not_take_the_table() {
    let (mut encoder, mut decoder) = (Encoder::default(), decoder());
    let mut template = request("/a.B/C");
    let (mut rest, mut octets) = (0, 0);
    for call in 0..30_000 {
        let fields: Fields = (0..50)
            .map(|place| match place {
                0 => ("x-entry-0".to_owned(), (call / 64).to_string()),
                _ => (format!("x-entry-{place}"), "a value that stays".to_owned()),
            })
            .collect();
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.template(&mut template, &mut out);
        encoder.rest(&fields, &mut out);
        let block = decoder.decode(&out).unwrap();
        assert_eq!(
            block.fields().count(),
            template.fields().len() + fields.len()
        );
        if call >= 20_000 {
            rest += block.rest.len();
            octets += out.len();
        }
    }
    assert!(rest < 10_000, "{rest} in 10,000 blocks");
    assert!(octets < 10_000 * 80, "{octets} in 10,000 blocks");
}
