package mdb

import (
	"context"
	"database/sql/driver"
	"encoding/binary"

	"github.com/messagedb-go/messagedb/internal/source"
)

// An AllCheckpoint is where a subscription to all categories can be resumed. [OnAllProgress]
// receives one, and [AfterAllCheckpoint] starts after it. It is like a [CategoryCheckpoint], and
// also contains the newest handled messages of up to 32 categories, from which the subscription
// knows whether the store has lost messages of them. Its text has at most 2,100 bytes.
//
// It is only valid for the categories and types of the subscription. To select others, start
// after its position, with [AfterGlobalPosition], or at the beginning.
type AllCheckpoint struct{ namedCheckpoint }

const (
	allKind = "a1"
	allName = "all categories"
)

// Position returns the global position up to which messages are handled, or 0 if none is.
func (c AllCheckpoint) Position() int64 { return c.at.Position }

// String returns the checkpoint's text, which UnmarshalText parses.
func (c AllCheckpoint) String() string { return c.text(allKind) }

// MarshalText implements [encoding.TextMarshaler]. It never fails.
func (c AllCheckpoint) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText parses the text of an AllCheckpoint. If that fails, it returns an
// [*ArgumentError] and leaves c unchanged.
func (c *AllCheckpoint) UnmarshalText(text []byte) error {
	return c.parse(string(text), allKind, "subscription to all categories")
}

// Value implements [driver.Valuer], with the checkpoint's text.
func (c AllCheckpoint) Value() (driver.Value, error) { return c.String(), nil }

// Scan implements [database/sql.Scanner]. NULL is the zero value.
func (c *AllCheckpoint) Scan(src any) error { return scanText(src, c.UnmarshalText) }

// After is like [CategoryCheckpoint.After], for a message of any category.
func (c AllCheckpoint) After(m Message) AllCheckpoint {
	next := c.after(allName, m.GlobalPosition, &m)
	earlier := func(a anchor) bool { return a.Position < m.GlobalPosition }
	next.at = next.at.KeepLatest(c.at, earlier).WithLatest(1, func(int) source.Latest { return latestOf(&m) })
	return AllCheckpoint{next}
}

// OnAllProgress is [OnProgress] for a subscription to all categories. Resume later with
// [AfterAllCheckpoint].
func OnAllProgress(f func(ctx context.Context, c AllCheckpoint) error) AllSubscribeOption {
	return allSubscribeOption(func(c *subscribeConfig) {
		c.onProgress = nil
		if f != nil {
			c.onProgress = func(ctx context.Context, at checkpoint) error {
				return f(ctx, AllCheckpoint{namedCheckpoint{allName, at}})
			}
		}
	})
}

// AfterAllCheckpoint is [AfterCheckpoint] for a subscription to all categories, with the same
// [InCategories] and [OfTypes].
func AfterAllCheckpoint(c AllCheckpoint) AllSubscribeOption {
	return allSubscribeOption(func(s *subscribeConfig) { s.start(c.namedCheckpoint) })
}

type allSubscribeOption func(*subscribeConfig)

func (o allSubscribeOption) allSubscribe(c *subscribeConfig) { o(c) }

// appendLatest appends the number of the newest messages of categories, and these.
func appendLatest(b []byte, c checkpoint) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Latest())))
	position, micros := c.Position, int64(0)
	for _, l := range c.Latest() {
		b = appendAnchor(b, l.Anchor, position, micros)
		b = binary.BigEndian.AppendUint32(b, l.Category)
		position, micros = l.Position, l.Time
	}
	return b
}

// decodeLatest decodes them, in a checkpoint of the position, and returns the rest.
func decodeLatest(b []byte, position int64) (latest []source.Latest, rest []byte, ok bool) {
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return nil, nil, false
	}
	b = b[n:]
	before := anchor{Position: position}
	for range count {
		var l source.Latest
		if l.Anchor, b, ok = decodeAnchor(b, before); !ok || len(b) < 4 {
			return nil, nil, false
		}
		l.Category, b = binary.BigEndian.Uint32(b), b[4:]
		latest = append(latest, l)
		before = l.Anchor
	}
	return latest, b, true
}
