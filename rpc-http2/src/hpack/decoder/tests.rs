use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn list(block: Block<'_>) -> Vec<(String, String)> {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    block
        .fields()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

fn decoded(decoder: &mut Decoder, block: &str) -> Vec<(String, String)> {
    list(decoder.decode(&hex(block)).unwrap())
}

fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn decoder() -> Decoder {
    Decoder::new(4096, 16 * 1024, 128)
}

/// RFC 7541 C.3 and C.4: the same requests without and with Huffman.
#[test]
fn requests_of_the_rfc() {
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = decoder();
        let common = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ];
        assert_eq!(decoded(&mut decoder, blocks[0]), fields(&common));
        let second = [&common[..], &[("cache-control", "no-cache")]].concat();
        assert_eq!(decoded(&mut decoder, blocks[1]), fields(&second));
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(decoded(&mut decoder, blocks[2]), fields(&third));
    }
}

/// RFC 7541 C.5 and C.6: responses with a table of 256 octets, which evicts.
#[test]
fn responses_of_the_rfc() {
    for blocks in [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let mut decoder = decoder();
        decoder.decode(&hex("3fe101")).unwrap();
        let date = |seconds| format!("Mon, 21 Oct 2013 20:13:{seconds} GMT");
        let (first, later) = (date(21), date(22));
        let location = ("location", "https://www.example.com");
        assert_eq!(
            decoded(&mut decoder, blocks[0]),
            fields(&[
                (":status", "302"),
                ("cache-control", "private"),
                ("date", &first),
                location
            ])
        );
        assert_eq!(
            decoded(&mut decoder, blocks[1]),
            fields(&[
                (":status", "307"),
                ("cache-control", "private"),
                ("date", &first),
                location
            ])
        );
        assert_eq!(
            decoded(&mut decoder, blocks[2]),
            fields(&[
                (":status", "200"),
                ("cache-control", "private"),
                ("date", &later),
                location,
                ("content-encoding", "gzip"),
                (
                    "set-cookie",
                    "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
                )
            ])
        );
    }
}

#[test]
fn a_prefix_is_remembered_until_the_table_changes() {
    let mut decoder = decoder();
    decoder.decode(&hex("4001 6101 31")).unwrap();
    let serial = |block: Block<'_>| block.prefix.map(|prefix| prefix.serial);
    let first = serial(decoder.decode(&hex("8286 be")).unwrap());
    assert!(first.is_some());
    let block = decoder.decode(&hex("8286 be 0001 7801 79")).unwrap();
    assert_eq!(serial(block), first);
    assert_eq!(
        list(block),
        fields(&[
            (":method", "GET"),
            (":scheme", "http"),
            ("a", "1"),
            ("x", "y")
        ])
    );
    decoder.decode(&hex("4001 6201 32")).unwrap();
    // The number is another one also for who did not see the first block of the new kind.
    decoder.decode(&hex("8286 be")).unwrap();
    let block = decoder.decode(&hex("8286 be")).unwrap();
    assert!(serial(block).is_some_and(|serial| Some(serial) != first));
    assert_eq!(
        list(block),
        fields(&[(":method", "GET"), (":scheme", "http"), ("b", "2")])
    );
}

#[test]
fn fields_keep_their_number_when_their_indices_shift() {
    let mut decoder = decoder();
    let serial = |block: Block<'_>| block.prefix.map(|prefix| prefix.serial);
    decoder.decode(&hex("4001 6101 31")).unwrap();
    let first = serial(decoder.decode(&hex("8286 be 4001 7401 31")).unwrap());
    assert!(first.is_some());
    // Each block inserts another `t`, as a peer does with the deadline of each call.
    for (index, value) in ["32", "33", "34"].iter().enumerate() {
        let place = 0xbf + index;
        let block = decoder
            .decode(&hex(&format!("8286 {place:x} 4001 7401 {value}")))
            .unwrap();
        assert_eq!(serial(block), first);
        let text = char::from(b'2' + index as u8).to_string();
        assert_eq!(
            list(block),
            fields(&[
                (":method", "GET"),
                (":scheme", "http"),
                ("a", "1"),
                ("t", &text)
            ])
        );
    }
    // The same beginning and one field less, one more, or another one.
    for block in ["8286", "8286 c1 c1", "8286 be"] {
        let other = serial(decoder.decode(&hex(block)).unwrap());
        assert!(other.is_some() && other != first, "{block}");
    }
}

#[test]
fn indices_that_are_not_there_are_refused() {
    for block in ["80", "be", "ff00", "7e01 61", "0f2f 01 61"] {
        assert_eq!(
            decoder().decode(&hex(block)).err(),
            Some(HpackError::Index),
            "{block}"
        );
    }
}

#[test]
fn sizes_change_only_at_the_beginning_and_within_the_limit() {
    assert!(decoder().decode(&hex("20 3fe11f 82")).is_ok());
    assert_eq!(
        decoder().decode(&hex("82 20")).err(),
        Some(HpackError::TableSize)
    );
    assert_eq!(
        decoder().decode(&hex("3fe21f")).err(),
        Some(HpackError::TableSize)
    );
    let mut decoder = decoder();
    decoder.decode(&hex("4001 6101 31")).unwrap();
    assert_eq!(decoder.decode(&hex("20 be")).err(), Some(HpackError::Index));
}

#[test]
fn a_block_that_is_cut_is_refused() {
    let whole = hex("8286 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65");
    for length in 3..whole.len() {
        assert!(decoder().decode(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn lists_end_at_their_limits_and_the_table_stays_in_step() {
    let mut small = Decoder::new(4096, 200, 128);
    let block = small
        .decode(&hex("4001 6101 31 be be be be be be be"))
        .unwrap();
    assert!(block.oversized);
    assert_eq!(block.fields().count(), 5);
    assert_eq!(decoded(&mut small, "be"), fields(&[("a", "1")]));
    let mut few = Decoder::new(4096, 1 << 20, 10);
    let mut block = hex("4001 6101 31");
    block.extend([0xbe; 50_000]);
    assert_eq!(few.decode(&block).unwrap().fields().count(), 10);
    let run = vec![0x82; 50_000];
    let mut few = Decoder::new(4096, 1 << 20, 10);
    assert_eq!(few.decode(&run).unwrap().fields().count(), 10);
}

#[test]
fn literals_of_all_kinds() {
    // Without indexing, never indexed, with an indexed name (C.2.2, C.2.3).
    let mut decoder = decoder();
    assert_eq!(
        decoded(&mut decoder, "040c 2f73 616d 706c 652f 7061 7468"),
        fields(&[(":path", "/sample/path")])
    );
    assert_eq!(
        decoded(&mut decoder, "1008 7061 7373 776f 7264 0673 6563 7265 74"),
        fields(&[("password", "secret")])
    );
    assert_eq!(decoder.decode(&hex("be")).err(), Some(HpackError::Index));
}

#[test]
fn prefixes_take_little_memory_whatever_they_stand_for() {
    let mut decoder = decoder();
    // One entry of almost the whole table.
    let mut entry = hex("40 01 61 7f a1 1e");
    entry.extend([b'v'; 4_000]);
    decoder.decode(&entry).unwrap();
    for first in 1..=61 {
        for count in 0..4 {
            let mut run = vec![0x80 | first];
            run.extend(std::iter::repeat_n(0xbe, count));
            let block = decoder.decode(&run).unwrap();
            assert_eq!(block.fields().count(), 1 + count);
        }
    }
    let remembered: usize = decoder
        .prefixes
        .iter()
        .flatten()
        .map(|known| known.octets.len() + known.fields.size())
        .sum();
    assert!(remembered <= 128 * 1024, "{remembered}");
}

#[test]
fn paths_that_are_literals_belong_to_the_prefix() {
    // A path in plain octets and with Huffman, without indexing and never indexed.
    for path in ["04 02 2f61", "14 02 2f61", "05 82 607f", "15 82 607f"] {
        let mut decoder = decoder();
        let serial = |block: Block<'_>| block.prefix.map(|prefix| prefix.serial);
        let block = hex(&format!("83 86 {path} 4001 7401 31"));
        let block = decoder.decode(&block).unwrap();
        let first = serial(block);
        assert!(first.is_some() && block.rest.len() == 1, "{path}");
        for (place, value) in [(0xbe, "32"), (0xbf, "33")] {
            // The field that was inserted before is behind the path now.
            let next = format!("83 86 {path} {place:x} 4001 7401 {value}");
            let block = decoder.decode(&hex(&next)).unwrap();
            let value = char::from(value.as_bytes()[1]).to_string();
            assert_eq!(
                list(block),
                fields(&[
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", "/a"),
                    ("t", "1"),
                    ("t", &value)
                ])
            );
        }
        // Another path in the same place, and one that is cut.
        let other = decoder.decode(&hex("83 86 04 02 2f62 c0")).unwrap();
        assert_eq!(list(other)[2].1, "/b");
        assert!(serial(other).is_some_and(|serial| Some(serial) != first));
        assert_eq!(
            decoder.decode(&hex("83 86 04 03 2f61")).err(),
            Some(HpackError::Truncated)
        );
    }
}

#[test]
fn a_long_path_is_behind_the_prefix() {
    let mut decoder = decoder();
    let mut block = hex("83 86 04 7f 21");
    block.extend([b'/'; 160]);
    let block = decoder.decode(&block).unwrap();
    assert_eq!(block.prefix.map(|prefix| prefix.fields.len()), Some(2));
    assert_eq!(block.fields().count(), 3);
}
