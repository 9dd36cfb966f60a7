package mdb_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
)

// goldenAll is a checkpoint of three messages of two categories, as a program has stored it.
const goldenAll = "1234567:a1:DmFsbCBjYXRlZ29yaWVzAgCAoKnUlOj3AgAAAAAAAAAAAAAAAAAAAAOIKd_ZgE__n-als9YCAAAAAAAAAAAAAAAAAAAAAYcp3kYAgKCp1JTo9wIAAAAAAAAAAAAAAAAAAAADZf-P3ofZgAIAAAAAAAAAAAAAAAAAAAACm07_j4ie2lUAAAAAAAAAAAAAAAAAAAABfYXUpQ"

func allCheckpoint() (c mdb.AllCheckpoint) {
	for i, position := range []int64{1224455, 1234466, 1234567} {
		c = c.After(mdb.Message{
			ID: uuid.UUID{15: byte(i + 1)}, Stream: mdb.StreamName(fmt.Sprintf("c%d-1", (i+1)/2)), GlobalPosition: position,
			Time: time.Date(2026, 1, 1+i*i*17, i, 0, 0, 0, time.UTC),
		})
	}
	return c
}

// TestAllCheckpointText checks that a text which a program has stored remains valid, and that no
// other text is accepted.
func TestAllCheckpointText(t *testing.T) {
	t.Parallel()
	var c mdb.AllCheckpoint
	if c.Position() != 0 || c.String() != "" {
		t.Errorf("got %d, %q of the zero value", c.Position(), c)
	}
	made := allCheckpoint()
	if err := c.UnmarshalText([]byte(goldenAll)); err != nil || c.Position() != 1234567 || c.String() != goldenAll || made.String() != goldenAll {
		t.Fatalf("got %v, %d, %s, made %s", err, c.Position(), c, made)
	}
	text, err := json.Marshal(c)
	var read mdb.AllCheckpoint
	if err != nil || json.Unmarshal(text, &read) != nil || read.String() != goldenAll {
		t.Errorf("got %s, %v, %v", text, err, read)
	}
	pool := newPool(t, testdb.Shared(t))
	for _, mode := range execModes {
		var back, none mdb.AllCheckpoint
		row := pool.QueryRow(t.Context(), `SELECT $1::text, NULL::text`, mode, c)
		if err := row.Scan(&back, &none); err != nil || back.String() != goldenAll || none.String() != "" {
			t.Errorf("%v: got %v, %v, %v", mode, back, none, err)
		}
	}
	for text, want := range map[string]string{
		"17":                         "three parts",
		"-1:a1:AAAA":                 "position",
		"17:a2:AAAA":                 "another version",
		"17:a1:AAAA":                 "damaged",
		goldenAll[:len(goldenAll)/2]: "damaged",
		goldenCategory:               "of a category",
		goldenStream:                 "of a stream",
	} {
		if e := wantError[*mdb.ArgumentError](t, c.UnmarshalText([]byte(text))); !strings.Contains(e.Error(), want) || c.String() != goldenAll {
			t.Errorf("%s: got error %v, checkpoint %s", text, e, c)
		}
	}
	if e := wantError[*mdb.ArgumentError](t, new(mdb.CategoryCheckpoint).UnmarshalText([]byte(goldenAll))); !strings.Contains(e.Error(), "of all categories") {
		t.Errorf("got %v", e)
	}
}

// TestAllCheckpointSize checks that the text of a checkpoint has at most 2,100 bytes, and that it can
// be read, however many categories there are and whatever positions and times their messages have.
func TestAllCheckpointSize(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var c mdb.AllCheckpoint
	for position := int64(1); position < 1<<62; position += 1 + r.Int64N(1+position/int64(2+r.IntN(50))) {
		c = c.After(mdb.Message{
			ID: uuid.New(), Stream: mdb.StreamName(fmt.Sprintf("c%d-1", r.IntN(1000))), GlobalPosition: position,
			Time: time.UnixMicro(r.Int64N(1 << 52)),
		})
		text := c.String()
		var read mdb.AllCheckpoint
		if err := read.UnmarshalText([]byte(text)); err != nil || read.String() != text || len(text) > 2100 {
			t.Fatalf("got %d bytes, %v", len(text), err)
		}
	}
}

// FuzzAllCheckpoint checks that no text makes parsing fail badly, and that a text which is accepted is
// the only one of its checkpoint.
func FuzzAllCheckpoint(f *testing.F) {
	for _, text := range []string{"", goldenAll, goldenCategory, "17:a1:AAAA"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var c mdb.AllCheckpoint
		if err := c.UnmarshalText([]byte(text)); err == nil && c.String() != text {
			t.Errorf("%q becomes %q", text, c)
		}
	})
}

// TestAllArguments checks that what a read of all categories or a subscription to them cannot do is
// rejected before anything is sent.
func TestAllArguments(t *testing.T) {
	t.Parallel()
	s := newStore(t, barePool(t, "host=/nowhere"), mdb.WithConditions())
	h := new(subscriber).handle
	for want, opt := range map[string]mdb.AllOption{
		`category: got "a-b"`:              mdb.InCategories("a", "a-b"),
		"categories: got none":             mdb.InCategories(),
		`type: got ""`:                     mdb.OfTypes("A", ""),
		"types: got none":                  mdb.OfTypes(),
		"condition: got one":               mdb.WithCondition("true"),
		"batch size: got Unlimited":        mdb.Unlimited(),
		"batch size: got 0":                mdb.WithBatchSize(0),
		"global position: got -1":          mdb.FromGlobalPosition(-1),
		"global position: got -2":          mdb.AfterGlobalPosition(-2),
		"categories: got none, want at le": mdb.AllOptions{mdb.InCategories()},
	} {
		_, get := s.GetAllMessages(t.Context(), opt)
		errs := []error{get, s.SubscribeToAll(t.Context(), h, opt)}
		for _, err := range s.AllMessages(t.Context(), opt) {
			errs = append(errs, err)
		}
		for i, err := range errs {
			if e := wantError[*mdb.ArgumentError](t, err); len(e.Faults) != 1 || !strings.Contains(e.Error(), want) {
				t.Errorf("%d: got error %v, want %q in it", i, e, want)
			}
		}
	}
	for want, err := range map[string]error{
		"FromEnd or a position": s.SubscribeToAll(t.Context(), h, mdb.AfterAllCheckpoint(allCheckpoint()), mdb.FromEnd()),
		"or a position":         s.SubscribeToAll(t.Context(), h, mdb.AfterAllCheckpoint(allCheckpoint()), mdb.AfterGlobalPosition(3)),
		`category: got ""`:      s.SubscribeToCategories(t.Context(), []mdb.Category{""}, h),
		"handler: got nil":      s.SubscribeToAll(t.Context(), nil),
	} {
		if e := wantError[*mdb.ArgumentError](t, err); !strings.Contains(e.Error(), want) {
			t.Errorf("got error %v, want %q in it", e, want)
		}
	}
}
