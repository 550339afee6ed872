//! Messages into length-prefixed frames and out of them.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpc_core::Codec;
use rpc_core::inside::{cut, frame};

fn framing(criterion: &mut Criterion) {
    for size in [100, 64 * 1024, 1024 * 1024] {
        let message = vec![7u8; size];
        let mut group = criterion.benchmark_group(format!("framing/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("encode", |bench| {
            // A prost message with one `bytes` field.
            bench.iter(|| frame(Codec::<Vec<u8>>::prost(), black_box(&message)));
        });
        group.bench_function("raw", |bench| {
            let message = Bytes::from(message.clone());
            bench.iter(|| frame(Codec::<Bytes>::raw(), black_box(&message)));
        });
        let framed = frame(Codec::<Vec<u8>>::prost(), &message).expect("it is below 4 GiB");
        group.bench_function("cut", |bench| {
            bench.iter(|| cut(black_box(framed.clone())));
        });
        group.finish();
    }
}

criterion_group!(benches, framing);
criterion_main!(benches);
