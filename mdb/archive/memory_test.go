package archive_test

import (
	"context"
	"io"
	"os"
	"runtime"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestMemory checks that an export and an import at the same time keep less in memory than a part of what they copy, whether that is
// large messages or, with MDB_TEST_LARGE, a million in many streams.
func TestMemory(t *testing.T) {
	from := mdbtest.Store(t)
	if os.Getenv("MDB_TEST_LARGE") == "" {
		seed(t, from, 4_000, 8<<10)
		copyInMemory(t, from, 4_000)
		return
	}
	execute(t, from, `INSERT INTO message_store.messages (stream_name, position, type, data)
		SELECT 'category' || i % 100000 % 7 || '-' || i % 100000, i / 100000, 'Happened', jsonb_build_object('n', i, 'text', repeat('x', 64)) FROM generate_series(0, 999999) AS i`)
	copyInMemory(t, from, 1_000_000)
}

// copyInMemory copies a store, and checks how much memory that needs.
func copyInMemory(t *testing.T, from *mdb.Store, messages int64) {
	t.Helper()
	const most = 16 << 20
	to := mdbtest.Store(t)
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
	kept := int64(greatest) - int64(before)
	t.Logf("%d KiB are kept in memory for %d messages", kept>>10, messages)
	if kept > most {
		t.Errorf("%d MiB are kept in memory, want at most %d", kept>>20, most>>20)
	}
}
