package examples_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"
)

// A span is one that OpenTelemetry's exporter to files has written.
type span struct {
	Name               string
	SpanContext        struct{ TraceID, SpanID string }
	Parent             struct{ SpanID string }
	StartTime, EndTime time.Time
	Attributes         []keyValue
	Resource           []keyValue

	depth int // in its trace
}

type keyValue struct {
	Key   string
	Value struct{ Value any }
}

func valueOf(of []keyValue, key string) any {
	for _, one := range of {
		if one.Key == key {
			return one.Value.Value
		}
	}
	return nil
}

func (s *span) attribute(key string) any { return valueOf(s.Attributes, key) }

func (s *span) service() string {
	name, _ := valueOf(s.Resource, "service.name").(string)
	return name
}

// title returns the name, with the consumer of a handler.
func (s *span) title() string {
	if consumer, ok := s.attribute("messaging.consumer.group.name").(string); ok {
		return s.Name + " by " + consumer
	}
	return s.Name
}

func readSpans(t *testing.T, name string) (spans []span) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for d := json.NewDecoder(file); ; {
		var s span
		err := d.Decode(&s)
		if errors.Is(err, io.EOF) {
			return spans
		}
		if err != nil {
			t.Fatal(err)
		}
		spans = append(spans, s)
	}
}

// traceOf returns the trace of the first span that is selected: each span before its children, which are in the order of time.
func traceOf(spans []span, selected func(*span) bool) (trace []span) {
	first := slices.IndexFunc(spans, func(s span) bool { return selected(&s) })
	if first < 0 {
		return nil
	}
	id := spans[first].SpanContext.TraceID
	of := slices.DeleteFunc(slices.Clone(spans), func(s span) bool { return s.SpanContext.TraceID != id })
	slices.SortFunc(of, func(a, b span) int {
		return cmp.Or(a.StartTime.Compare(b.StartTime), cmp.Compare(a.SpanContext.SpanID, b.SpanContext.SpanID))
	})
	present := make(map[string]bool)
	for i := range of {
		present[of[i].SpanContext.SpanID] = true
	}
	var add func(parent string, depth int)
	add = func(parent string, depth int) {
		for i := range of {
			root := parent == "" && !present[of[i].Parent.SpanID]
			if s := of[i]; root || parent != "" && s.Parent.SpanID == parent {
				s.depth = depth
				trace = append(trace, s)
				add(s.SpanContext.SpanID, depth+1)
			}
		}
	}
	add("", 0)
	return trace
}
