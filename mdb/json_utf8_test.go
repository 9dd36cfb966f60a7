package mdb_test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// Types whose methods have pointer receivers, which encoding/json uses only if it has the
// address of a value.
type (
	owner struct {
		Items []item
		Name  string
	}
	item struct {
		Label string
		Owner *owner
	}
	label struct{ Text string } // its JSON contains Text
	word  struct{ Text string } // its text is Text
	key   string                // with a text, which encoding/json does not use for keys
)

func (i *item) MarshalJSON() ([]byte, error) { return json.Marshal(i.Label) }
func (l *label) MarshalJSON() ([]byte, error) {
	return []byte(`"` + strings.ToValidUTF8(l.Text, `\ufffd`) + `"`), nil
}
func (w *word) MarshalText() ([]byte, error) { return []byte(w.Text), nil }
func (k key) MarshalText() ([]byte, error)   { return []byte("key"), nil }

// Structs that encoding/json embeds.
type (
	Inner     struct{ Text string }
	Chain     struct{ *Chain }
	Marshaled struct{ Text string }
	Other     struct{ Number int }
	ambiguous struct { // has no MarshalJSON, because it has two
		Marshaled
		Other
	}
	outer struct {
		Text string
		Inner
	}
	chained struct {
		Chain
		Text string
	}
	tagged struct {
		Marshaled `json:"m"`
		Text      string
	}
	zero struct {
		Hidden zeroed `json:",omitzero"`
		Raw    json.RawMessage
	}
	zeroed struct {
		Next *zeroed
		Text string
	}
	quoted struct {
		Text string `json:",string"`
	}
)

func (Marshaled) MarshalJSON() ([]byte, error) { return []byte(`"\ufffd"`), nil }
func (Other) MarshalJSON() ([]byte, error)     { return []byte(`1`), nil }
func (zeroed) IsZero() bool                    { return true }

// A onceMarshaler fails or panics from the second call on.
type onceMarshaler struct {
	calls  *atomic.Int64
	panics bool
}

func (o onceMarshaler) MarshalText() ([]byte, error) {
	if o.calls.Add(1) > 1 {
		if o.panics {
			panic(canary)
		}
		return nil, errors.New(canary)
	}
	return []byte(canary + "\xff"), nil
}

// TestInvalidUTF8 checks that values are rejected because of the strings that encoding/json
// encodes, and of no others. Among them are values with cycles that it does not follow.
func TestInvalidUTF8(t *testing.T) {
	t.Parallel()
	const bad = canary + "\xff"
	escape := json.RawMessage(`"\ufffd"`) // so that each value is looked at
	cyclic := func(name string, labels ...string) *owner {
		o := &owner{Name: name}
		for _, label := range labels {
			o.Items = append(o.Items, item{Label: label, Owner: o})
		}
		return o
	}
	chain := &zeroed{Text: bad}
	for range 1_000_000 {
		chain = &zeroed{Next: chain}
	}
	ring := &Chain{}
	ring.Chain = ring
	self := map[string]any{"a": bad}
	self["self"] = self
	accepted, _ := unusedStore(t)
	for _, tt := range []struct {
		name     string
		data     any
		rejected bool
	}{
		{"a cycle that the method of a pointer leaves out", cyclic(bad, "a"), true},
		{"a cycle and no invalid string", []any{cyclic("a", "b"), escape}, false},
		{"a string that a method has replaced", cyclic("a", "b", bad), false},
		{"the same, in an array of which json has no address", [1]label{{bad}}, true},
		{"the same, in an array of which it has", &[1]label{{bad}}, false},
		{"the same, in a struct of which it has none", struct{ L label }{label{bad}}, true},
		{"the same, in a slice", []label{{bad}}, false},
		{"the same, in a map", map[string]label{"a": {bad}}, true},
		{"the same, in an interface", []any{label{bad}}, true},
		{"the same, in an interface with a pointer", []any{&label{bad}}, false},
		{"a text method's", []word{{bad}}, true},
		{"a text method's, a pointer", []*word{{bad}, nil}, true},
		{"a text method without an address", map[string]word{"a": {bad}}, true},
		{"a key whose method is not used", map[key]int{bad: 1}, true},
		{"a key of a pointer", map[*word]int{{bad}: 1, nil: 2}, true},
		{"an unexported struct", ambiguous{Marshaled{bad}, Other{1}}, true},
		{"a field that another one hides", []any{outer{Text: "a", Inner: Inner{bad}}, escape}, false},
		{"the field that hides another one", outer{Text: bad}, true},
		{"an embedded struct with a name", tagged{Marshaled{bad}, "a"}, false},
		{"an embedded pointer to itself", []any{chained{Chain{ring}, "a"}, escape}, false},
		{"an embedded pointer to itself, and an invalid string", chained{Chain{ring}, bad}, true},
		{"a long chain that is omitted", zero{Hidden: *chain, Raw: escape}, false},
		{"a cycle that is omitted", struct {
			Hidden omitted `json:",omitzero"`
			Raw    json.RawMessage
		}{omitted{self}, escape}, false},
		{"a string as a string", quoted{bad}, true},
		{"numbers", []any{[]int{1}, make([]byte, 1<<20), []float64{1}, escape}, false},
		{"shared", func() any { i := &inner{bad}; return []*inner{i, i} }(), true},
		{"a text that is made only once", []any{onceMarshaler{calls: new(atomic.Int64)}}, true},
		{"a method that panics the second time", []any{onceMarshaler{calls: new(atomic.Int64), panics: true}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := json.Marshal(tt.data); err != nil {
				t.Fatal(err)
			}
			if m, ok := tt.data.([]any); ok {
				if once, ok := m[0].(onceMarshaler); ok {
					once.calls.Store(0)
				}
			}
			if tt.rejected {
				_, err := accepted.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", tt.data))
				checkFaults(t, err, mdb.Fault{"data", isUTF8, "valid JSON that PostgreSQL can store"})
				checkNoCanary(t, err)
				return
			}
			s := mdbtest.SharedStore(t)
			write(t, s, mdbtest.Category("utf8").Stream("1"), mdb.NewMessage("Happened", tt.data))
		})
	}
}

type omitted struct{ M map[string]any }

func (omitted) IsZero() bool { return true }
