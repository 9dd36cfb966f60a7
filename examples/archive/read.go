//go:build unix

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// An end is where a file ends.
type end struct {
	checkpoint mdb.CategoryCheckpoint // after its last message
	whole      int64                  // the bytes of its complete members
	cut        bool                   // an incomplete one follows
}

// A counter counts the bytes that are read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// header is what each member begins with.
var header = func() []byte {
	var empty bytes.Buffer
	_ = gzip.NewWriter(&empty).Close() // a buffer never fails
	return empty.Bytes()[:10]
}()

// readFile reads a file to its end. It returns an error if the file contains anything else than members and the beginning of another
// one. A damaged member can look like an incomplete one, but no other follows that.
func readFile(name string, category mdb.Category) (e end, err error) {
	f, err := os.Open(name) //nolint:gosec // a file of the folder
	if err != nil {
		return e, err
	}
	defer func() { _ = f.Close() }() // it was only read
	incomplete := func() (end, error) {
		rest, err := io.ReadAll(io.NewSectionReader(f, e.whole+1, math.MaxInt64-e.whole-1))
		if err == nil && bytes.Contains(rest, header) {
			err = damaged(name, e.whole, io.ErrUnexpectedEOF)
		}
		e.cut = true
		return e, err
	}
	count := &counter{r: f}
	r := bufio.NewReader(count)
	var z gzip.Reader
	for {
		if err := z.Reset(r); errors.Is(err, io.EOF) {
			return e, nil
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			return incomplete()
		} else if err != nil {
			return e, damaged(name, e.whole, err)
		}
		z.Multistream(false)
		lines, err := io.ReadAll(&z)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return incomplete()
		}
		if err == nil {
			e.checkpoint, err = after(e.checkpoint, lines, category)
		}
		if err != nil {
			return e, damaged(name, e.whole, err)
		}
		e.whole = count.n - int64(r.Buffered())
	}
}

// damaged leaves it to a person to cut off a part of the file, because the store may no longer have its messages.
func damaged(name string, whole int64, err error) error {
	return fmt.Errorf("%s is damaged after its first %d bytes: %w", name, whole, err)
}

// after returns the checkpoint after lines. It needs nothing but them, because a checkpoint consists of messages.
func after(c mdb.CategoryCheckpoint, lines []byte, category mdb.Category) (mdb.CategoryCheckpoint, error) {
	for d := json.NewDecoder(bytes.NewReader(lines)); ; {
		var l struct {
			ID             uuid.UUID
			Stream         mdb.StreamName `json:"stream_name"`
			GlobalPosition int64          `json:"global_position"`
			Time           time.Time
		}
		err := d.Decode(&l)
		switch {
		case errors.Is(err, io.EOF):
			return c, nil
		case err != nil:
			return c, err
		case l.Stream.Category() != category:
			return c, fmt.Errorf("it contains messages of the category %q, not %q", l.Stream.Category(), category)
		case l.GlobalPosition <= c.Position():
			return c, fmt.Errorf("message %d does not follow message %d", l.GlobalPosition, c.Position())
		}
		c = c.After(mdb.Message{ID: l.ID, Stream: l.Stream, GlobalPosition: l.GlobalPosition, Time: l.Time})
	}
}
