package examples_test

import (
	"bytes"
	_ "embed"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"testing"
	"text/template"
	"time"
)

//go:embed picture.svg.tmpl
var pictureTemplate string

const (
	pictureLeft, pictureRight = 330.0, 856.0
	pictureTop, pictureRow    = 92, 24
)

// A bar is a span in the picture.
type bar struct {
	Title, Service, Took string
	Indent, Y            int
	X, Width             float64
	Class                string
	Before               bool // whether the duration stands before the bar
}

// draw returns a picture of a trace, as SVG.
func draw(t *testing.T, trace []span) []byte {
	t.Helper()
	begin, end := trace[0].StartTime, trace[0].EndTime
	for i := range trace {
		if trace[i].EndTime.After(end) {
			end = trace[i].EndTime
		}
	}
	scale := (pictureRight - pictureLeft) / float64(end.Sub(begin))
	classes := make(map[string]string)
	var bars []bar
	var services []bar
	for i := range trace {
		s := &trace[i]
		if classes[s.service()] == "" {
			classes[s.service()] = fmt.Sprintf("v%d", len(classes))
			services = append(services, bar{Service: s.service(), Class: classes[s.service()], X: 24 + 150*float64(len(services))})
		}
		x := pictureLeft + scale*float64(s.StartTime.Sub(begin))
		bars = append(bars, bar{
			Title: s.title(), Service: s.service(), Took: milliseconds(s.EndTime.Sub(s.StartTime)), Indent: 24 + 10*s.depth, Y: pictureTop + pictureRow*i,
			X: x, Width: max(2, scale*float64(s.EndTime.Sub(s.StartTime))), Class: classes[s.service()], Before: x > (pictureLeft+pictureRight)/2,
		})
	}
	bottom := pictureTop + pictureRow*len(bars)
	var out bytes.Buffer
	err := template.Must(template.New("").Parse(pictureTemplate)).Execute(&out, map[string]any{
		"Bars": bars, "Services": services, "Height": bottom + 24, "Frame": bottom + 23, "All": milliseconds(end.Sub(begin)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(out.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return out.Bytes()
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
