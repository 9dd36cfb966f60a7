package mdb_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// The texts of checkpoints that an earlier version has written.
const (
	goldenCategory = "1234567:c1:B2FjY291bnQAqs3prZK69QL86pIPdBK12nvgz0K4yTdZAYWJeo1w2KsnaPIy6-h0F1Bl6tNCi9X4PqbhCCPdUbP7eKTGdYCI4x70A7er69wDZIM6bUM80ZhWphUznwl_uqAfv9va5h2TByep7v4sqbD-IhnDduT_sOoBn66owt8BI-gIZiautbOWl8NwXJ5aieCnEr_Ok5e7EcPE-Mlk2PvZzmL_OSG9Xnmd9zat0MzCsTTsy8h-S1zi_igwj9nyp7rz_0p5zg"
	goldenStream   = "41:s1:CWFjY291bnQtMQD28saypPL0AjQWp19M6pEJUHys2OLyrvwBhYl61kWSDjlf7a17u-0Oyj_i4AivyNAHY2TT8PSVtqudz407XG4LASC_ocIez80ghJXVZe9m59_5-Ydk2vVuBTQ"
)

// TestCheckpointText checks that texts which programs have stored remain valid, in every form
// in which a checkpoint can be stored.
func TestCheckpointText(t *testing.T) {
	t.Parallel()
	var c mdb.CategoryCheckpoint
	if err := c.UnmarshalText([]byte(goldenCategory)); err != nil {
		t.Fatal(err)
	}
	if c.Position() != 1234567 || c.String() != goldenCategory {
		t.Errorf("got %d, %s", c.Position(), c)
	}
	var s mdb.StreamCheckpoint
	if err := s.UnmarshalText([]byte(goldenStream)); err != nil {
		t.Fatal(err)
	}
	if s.Position() != 41 || s.String() != goldenStream {
		t.Errorf("got %d, %s", s.Position(), s)
	}

	type stored struct {
		C mdb.CategoryCheckpoint
		S mdb.StreamCheckpoint
	}
	text, err := json.Marshal(stored{c, s})
	if err != nil || string(text) != `{"C":"`+goldenCategory+`","S":"`+goldenStream+`"}` {
		t.Errorf("got %s, %v", text, err)
	}
	var read stored
	if err := json.Unmarshal(text, &read); err != nil || read.C.String() != goldenCategory || read.S.String() != goldenStream {
		t.Errorf("got %+v, %v", read, err)
	}

	pool := newPool(t, testdb.Shared(t))
	for _, mode := range execModes {
		var back stored
		var none mdb.CategoryCheckpoint
		row := pool.QueryRow(t.Context(), `SELECT $1::text, $2::text, NULL::text`, mode, c, s)
		if err := row.Scan(&back.C, &back.S, &none); err != nil || back.C.String() != goldenCategory || back.S.String() != goldenStream || none.String() != "" {
			t.Errorf("%v: got %+v, %v, %v", mode, back, none, err)
		}
	}
}

// TestZeroCheckpoint checks that the zero value is the beginning, and has an empty text.
func TestZeroCheckpoint(t *testing.T) {
	t.Parallel()
	c, s := mdb.CategoryCheckpoint{}, mdb.StreamCheckpoint{}
	if c.Position() != 0 || s.Position() != mdb.NoStream || c.String() != "" || s.String() != "" {
		t.Errorf("got %d, %d, %q, %q", c.Position(), s.Position(), c, s)
	}
	if err := c.UnmarshalText([]byte(goldenCategory)); err != nil {
		t.Fatal(err)
	}
	if err := c.UnmarshalText(nil); err != nil || c.Position() != 0 || c.String() != "" {
		t.Errorf("got %q, %v", c, err)
	}
}

// TestCheckpointErrors checks that a text that is no checkpoint of the kind is rejected, and
// leaves the checkpoint unchanged.
func TestCheckpointErrors(t *testing.T) {
	t.Parallel()
	digit := strings.Replace(goldenCategory, "1", "2", 1)
	for text, want := range map[string]string{
		"17":                                   "three parts",
		"seventeen:c1:AAAA":                    "position",
		"+17:c1:AAAA":                          "position",
		"-1:c1:AAAA":                           "position",
		"17:c2:AAAA":                           "another version",
		"17:c1:":                               "damaged",
		"17:c1:AAAA":                           "damaged",
		digit:                                  "damaged",
		goldenCategory[:len(goldenCategory)/2]: "damaged",
		goldenCategory + "A":                   "damaged",
		goldenStream:                           "of a stream",
	} {
		c := mdb.CategoryCheckpoint{}
		if err := c.UnmarshalText([]byte(goldenCategory)); err != nil {
			t.Fatal(err)
		}
		e := wantError[*mdb.ArgumentError](t, c.UnmarshalText([]byte(text)))
		if !strings.Contains(e.Error(), want) || c.String() != goldenCategory || len(e.Error()) > 200 {
			t.Errorf("%s: got error %v, checkpoint %s", text, e, c)
		}
	}
	wantError[*mdb.ArgumentError](t, new(mdb.StreamCheckpoint).UnmarshalText([]byte(goldenCategory)))
	if err := new(mdb.StreamCheckpoint).Scan(17); err == nil {
		t.Error("got no error for a number")
	}
}

// TestCheckpointOfAnother checks that a subscription rejects the checkpoint of another category
// or stream, and a second start, before it sends anything.
func TestCheckpointOfAnother(t *testing.T) {
	t.Parallel()
	s := newStore(t, barePool(t, "host=/nowhere"))
	var c mdb.CategoryCheckpoint
	var sc mdb.StreamCheckpoint
	for text, err := range map[string]error{goldenCategory: c.UnmarshalText([]byte(goldenCategory)), goldenStream: sc.UnmarshalText([]byte(goldenStream))} {
		if err != nil {
			t.Fatal(text, err)
		}
	}
	h := new(subscriber).handle
	for want, err := range map[string]error{
		"one of account":        s.SubscribeToCategory(t.Context(), "other", h, mdb.AfterCheckpoint(c)),
		"one of account-1":      s.SubscribeToStream(t.Context(), "account-2", h, mdb.AfterStreamCheckpoint(sc)),
		"FromEnd or a position": s.SubscribeToCategory(t.Context(), "account", h, mdb.AfterCheckpoint(c), mdb.FromEnd()),
		"or a position":         s.SubscribeToStream(t.Context(), "account-1", h, mdb.AfterStreamCheckpoint(sc), mdb.AfterPosition(3)),
	} {
		if e := wantError[*mdb.ArgumentError](t, err); len(e.Faults) != 1 || !strings.Contains(e.Error(), want) {
			t.Errorf("got error %v, want %q in it", e, want)
		}
	}
}

// FuzzCheckpoint checks that no text makes parsing fail badly, and that a text which is
// accepted is the only one of its checkpoint.
func FuzzCheckpoint(f *testing.F) {
	for _, text := range []string{"", goldenCategory, goldenStream, "17:c1:AAAA", "0:c1:AWEAAAAA"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var c mdb.CategoryCheckpoint
		if err := c.UnmarshalText([]byte(text)); err == nil && c.String() != text {
			t.Errorf("%q becomes %q", text, c)
		}
		var s mdb.StreamCheckpoint
		if err := s.UnmarshalText([]byte(text)); err == nil && s.String() != text {
			t.Errorf("%q becomes %q", text, s)
		}
	})
}

// TestCheckpointAfter checks that a checkpoint that a handler makes of its messages is that
// of OnProgress, from the beginning and from a stored one, and that an earlier message
// replaces what comes after it.
func TestCheckpointAfter(t *testing.T) {
	t.Parallel()
	for way, s := range bothWays(t, often) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			category := mdbtest.Category("after")
			stream := category.Stream("1")
			seed(t, s, stream, 40)
			errDone := errors.New("done")
			var made, progress mdb.CategoryCheckpoint
			var first mdb.Message
			end := value[int64](t, s.Pool(), `SELECT max(global_position) FROM message_store.messages WHERE stream_name = $1`, string(stream))
			for range 3 { // the second and third go on from a stored text
				n := 0
				err := s.SubscribeToCategory(t.Context(), category, func(_ context.Context, m mdb.Message) error {
					if made.Position() == 0 {
						first = m
					}
					made = made.After(m)
					n++
					return nil
				}, mdb.WithBatchSize(7), mdb.AfterCheckpoint(made), mdb.OnProgress(func(_ context.Context, c mdb.CategoryCheckpoint) error {
					if progress = c; n >= 14 || c.Position() >= end {
						return errDone
					}
					return nil
				}))
				if !errors.Is(err, errDone) {
					t.Fatal(err)
				}
				if made.Position() == 0 || made.Position() != progress.Position() {
					t.Errorf("got position %d, want %d", made.Position(), progress.Position())
				}
				if err := made.UnmarshalText([]byte(made.String())); err != nil {
					t.Fatal(err)
				}
			}
			if made.Position() != end {
				t.Errorf("got position %d, want %d", made.Position(), end)
			}
			if got, want := made.After(first).String(), (mdb.CategoryCheckpoint{}).After(first).String(); got != want {
				t.Errorf("after an earlier message: got %s, want %s", got, want)
			}
			ofStream := mdb.StreamCheckpoint{}.After(first)
			if err := ofStream.UnmarshalText([]byte(ofStream.String())); err != nil || ofStream.Position() != 0 {
				t.Errorf("got position %d, error %v, want 0", ofStream.Position(), err)
			}
			defer func() {
				if recover() == nil {
					t.Error("a message of another category: want a panic")
				}
			}()
			made.After(mdb.Message{Stream: "other-1", GlobalPosition: end + 1})
		})
	}
}
