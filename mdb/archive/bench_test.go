package archive_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// Messages of a benchmark, each with about 200 bytes of data and metadata.
const benchMessages, benchSize = 100_000, 120

func BenchmarkExport(b *testing.B) {
	s := mdbtest.Store(b)
	seed(b, s, benchMessages, benchSize)
	execute(b, s, `VACUUM ANALYZE message_store.messages`)
	for b.Loop() {
		if done, err := archive.Export(b.Context(), s, io.Discard, archive.ExportOptions{}); err != nil || done.Messages != benchMessages {
			b.Fatal(done, err)
		}
	}
	perSecond(b)
}

func BenchmarkImport(b *testing.B) {
	from := mdbtest.Store(b)
	seed(b, from, benchMessages, benchSize)
	var lines bytes.Buffer
	if _, err := archive.Export(b.Context(), from, &lines, archive.ExportOptions{}); err != nil {
		b.Fatal(err)
	}
	for name, opts := range map[string]archive.ImportOptions{"write_message": {}, "insert": {Times: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				to := mdbtest.Store(b)
				b.StartTimer()
				if done, err := archive.Import(b.Context(), to, bytes.NewReader(lines.Bytes()), opts); err != nil || done.Written != benchMessages {
					b.Fatal(done, err)
				}
			}
			perSecond(b)
		})
	}
	b.Run("found", func(b *testing.B) {
		for b.Loop() {
			if done, err := archive.Import(b.Context(), from, bytes.NewReader(lines.Bytes()), archive.ImportOptions{}); err != nil || done.Found != benchMessages {
				b.Fatal(done, err)
			}
		}
		perSecond(b)
	})
}

func perSecond(b *testing.B) {
	b.Helper()
	b.ReportMetric(benchMessages*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(0, "ns/op")
}
