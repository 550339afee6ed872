package main

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// All messages of test.proto: numbers are varints, texts and bytes are of the wire's type 2.
type record struct {
	numbers map[protowire.Number]int64
	bytes   map[protowire.Number][]byte
}

func newRecord() *record {
	return &record{numbers: map[protowire.Number]int64{}, bytes: map[protowire.Number][]byte{}}
}

func number(value int64) *record {
	r := newRecord()
	r.numbers[1] = value
	return r
}

func (r *record) marshal() []byte {
	var out []byte
	for field, value := range r.numbers {
		if value != 0 {
			out = protowire.AppendTag(out, field, protowire.VarintType)
			out = protowire.AppendVarint(out, uint64(value))
		}
	}
	for field, value := range r.bytes {
		out = protowire.AppendTag(out, field, protowire.BytesType)
		out = protowire.AppendBytes(out, value)
	}
	return out
}

func (r *record) unmarshal(in []byte) error {
	for len(in) > 0 {
		field, kind, length := protowire.ConsumeTag(in)
		if length < 0 {
			return protowire.ParseError(length)
		}
		in = in[length:]
		switch kind {
		case protowire.VarintType:
			value, length := protowire.ConsumeVarint(in)
			if length < 0 {
				return protowire.ParseError(length)
			}
			r.numbers[field], in = int64(value), in[length:]
		case protowire.BytesType:
			value, length := protowire.ConsumeBytes(in)
			if length < 0 {
				return protowire.ParseError(length)
			}
			r.bytes[field], in = append([]byte{}, value...), in[length:]
		default:
			return fmt.Errorf("a field of type %d", kind)
		}
	}
	return nil
}

// codec is grpc-go's own for generated messages (health), and the one above for records.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*record); ok {
		return mem.BufferSlice{mem.SliceBuffer(r.marshal())}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*record); ok {
		return r.unmarshal(data.Materialize())
	}
	return c.CodecV2.Unmarshal(data, v)
}

func (codec) Name() string { return "proto" }

func useCodec() { encoding.RegisterCodecV2(codec{encoding.GetCodecV2("proto")}) }
