package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// summarySamples returns samples of the cases and variants of the README.
func summarySamples() (samples []sample) {
	for i, c := range summaryCases {
		names := []string{rawName}
		for _, v := range summaryVariants {
			names = append(names, v.name)
		}
		for j, name := range names {
			for round := range 2 {
				for range 2 { // turns
					samples = append(samples, sample{
						Case: c.name, Variant: name, Messages: i, Round: round, Ops: 10, NsPerOp: float64((i + 1) * (j + 1) * 100_000),
						AllocsPerOp: 6, BytesPerOp: 1234, ServerNsPerOp: 1000, Outside: i == 1 && j == 1,
					})
				}
			}
		}
	}
	for _, n := range chartWriters {
		for j, v := range groupedVariants {
			for round := range 2 {
				for range 2 {
					samples = append(samples, sample{
						Case: groupedCase(1, n, ""), Variant: v.name, Messages: 1, Round: round, Ops: 10, NsPerOp: float64(100_000 * (j + 1)), MedianNs: float64(100_000 * (j + 1) * n),
					})
				}
			}
		}
	}
	for i := range samples {
		if samples[i].Outside {
			samples[i].AllocsPerOp, samples[i].BytesPerOp = 0, 0
		}
	}
	return samples
}

// TestResults checks that results are read as they were written, with their turns merged
// into rounds.
func TestResults(t *testing.T) {
	t.Parallel()
	written := results{facts: []fact{{"date", "2026-11-26"}, {"cpu", "Some(R) CPU: 1, 2"}}, samples: summarySamples()}
	var w bytes.Buffer
	if err := encodeResults(&w, written); err != nil {
		t.Fatal(err)
	}
	read, err := decodeResults(&w, "test")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read.facts, written.facts) {
		t.Errorf("facts %q, want %q", read.facts, written.facts)
	}
	var want []sample
	for i := 0; i < len(written.samples); i += 2 {
		s := written.samples[i]
		s.Ops *= 2
		want = append(want, s)
	}
	if !reflect.DeepEqual(read.samples, want) {
		t.Errorf("samples %v, want %v", read.samples, want)
	}
}

// TestReport checks that the README gets the table and the chart, and nothing else of it
// changes.
func TestReport(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "2026-11-26")
	readme := filepath.Join(t.TempDir(), "README.md")
	if err := errors.Join(os.Mkdir(folder, 0o750), os.WriteFile(readme, []byte("before\n"+readmeBegin+"old\n"+readmeEnd+"after\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r := results{facts: []fact{{"date", "2026-11-26"}}, samples: summarySamples()}
	for range 2 {
		if err := writeReport(options{out: folder, readme: readme}, r); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	block, ok := strings.CutPrefix(string(text), "before\n"+readmeBegin)
	block, ends := strings.CutSuffix(block, readmeEnd+"after\n")
	if !ok || !ends || strings.Contains(block, "old") {
		t.Errorf("README:\n%s", text)
	}
	for _, want := range []string{
		"| Write 1 message | 200 µs | 300 µs | 400 µs | 500 µs | 100 µs |", "(bench/results/2026-11-26/" + chartFile + ")", "26 November 2026",
		"(bench/results/2026-11-26/" + groupedChartFile + ")", "| 8 | 10,000 (800 µs) | 5,000 (1.60 ms) |",
	} {
		if !strings.Contains(block, want) {
			t.Errorf("the block lacks %q:\n%s", want, block)
		}
	}
	for _, name := range []string{chartFile, groupedChartFile} {
		svg, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		for decoder := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTable checks the ratio of a variant that takes twice as long in each round
// as the first one.
func TestTable(t *testing.T) {
	t.Parallel()
	var samples []sample
	for round := range 10 {
		base := float64((100 + 50*(round*7%10)) * int(time.Microsecond))
		samples = append(samples,
			sample{Case: "c", Variant: "a", Round: round, NsPerOp: base},
			sample{Case: "c", Variant: "b", Round: round, NsPerOp: 2 * base})
	}
	if text := table(samples); !strings.Contains(text, "2.00 (2.00–2.00)") {
		t.Errorf("want a ratio of 2:\n%s", text)
	}
}
