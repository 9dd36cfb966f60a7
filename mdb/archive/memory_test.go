package archive_test

import (
	"context"
	"io"
	"runtime"
	"testing"

	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestMemory checks that an export and an import at the same time keep less in memory than a part of what they copy.
func TestMemory(t *testing.T) {
	const messages, size, most = 4_000, 8 << 10, 16 << 20
	from, to := mdbtest.Store(t), mdbtest.Store(t)
	seed(t, from, messages, size)
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before, greatest := heap(), uint64(0)
	r, w := io.Pipe()
	exported := make(chan error, 1)
	go func() {
		_, err := archive.Export(context.WithoutCancel(t.Context()), from, w, archive.ExportOptions{})
		exported <- w.CloseWithError(err)
	}()
	done, err := archive.Import(t.Context(), to, r, archive.ImportOptions{Progress: func(archive.Imported) { greatest = max(greatest, heap()) }})
	if err := <-exported; err != nil {
		t.Fatal(err)
	}
	if err != nil || done != (archive.Imported{Written: messages}) {
		t.Fatalf("got %+v, %v", done, err)
	}
	if kept := int64(greatest) - int64(before); kept > most {
		t.Errorf("%d MiB are kept in memory for %d MiB of data, want at most %d", kept>>20, messages*size>>20, most>>20)
	}
}
