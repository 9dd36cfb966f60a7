package archive

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/messagedb-go/messagedb/internal/jsonl"
	"github.com/messagedb-go/messagedb/mdb"
)

// ExportOptions say which messages [Export] exports. The zero value stands for all.
type ExportOptions struct {
	// Categories are those whose messages are exported. If there are none, all are.
	Categories []mdb.Category

	// After is the global position after which the export begins, for example [Exported.Final] of an earlier one, or the
	// result of [Resume].
	After int64

	// Progress is called now and then, if it is not nil.
	Progress func(Exported)
}

// Exported is how far an export is.
type Exported struct {
	// Messages is the number of messages.
	Messages int64

	// Position is the global position of the last of them, or [ExportOptions.After] if there is none.
	Position int64

	// Final is the global position up to which messages are exported. No message up to it is written later, so the next
	// export can begin after it.
	Final int64
}

// Export writes the messages of the store to w, in the order of their global positions, up to the last one that is final
// when it is called, see [mdb.Store.Head]. It needs a primary, and waits for transactions that may write earlier positions.
// One page of messages is in memory at a time, of up to 4 MiB or one message.
//
// After an error, w has whole lines up to [Exported.Position], unless it was w that failed. An
// [*mdb.UnreadableError] says which message cannot be read; an export with its global position as After
// leaves it out.
func Export(ctx context.Context, s *mdb.Store, w io.Writer, opts ExportOptions) (Exported, error) {
	done := Exported{Position: opts.After}
	if err := opts.check(); err != nil {
		return done, err
	}
	selected := mdb.AllOptions{mdb.AfterGlobalPosition(opts.After), mdb.WithBatchSize(pageSize), mdb.WithBatchBytes(pageBytes)}
	if len(opts.Categories) > 0 {
		selected = append(selected, mdb.InCategories(opts.Categories...))
	}
	messages := s.AllMessages(ctx, selected)
	final, err := s.Head(ctx)
	if err != nil {
		return done, err
	}
	done.Final = max(final, opts.After)
	b := bufio.NewWriterSize(w, bufferSize)
	var line []byte
	for m, err := range messages {
		if err != nil {
			return done, cmp.Or(b.Flush(), err)
		}
		if m.GlobalPosition > final {
			break
		}
		line = jsonl.Append(line[:0], &m)
		if _, err := b.Write(line); err != nil {
			return done, fmt.Errorf("archive: write a message: %w", err)
		}
		if cap(line) > bufferSize {
			line = nil // lets it be freed
		}
		done.Messages++
		if done.Position = m.GlobalPosition; opts.Progress != nil && done.Messages%pageSize == 0 {
			opts.Progress(done)
		}
	}
	if err := b.Flush(); err != nil {
		return done, fmt.Errorf("archive: write a message: %w", err)
	}
	if opts.Progress != nil {
		opts.Progress(done)
	}
	return done, nil
}

func (o *ExportOptions) check() error {
	var wrong faults
	wrong.position("after", o.After)
	for _, c := range o.Categories {
		wrong.category(c)
	}
	return wrong.err()
}

const (
	pageSize   = 1000
	pageBytes  = 4 << 20
	bufferSize = 64 << 10
)
