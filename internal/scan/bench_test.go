package scan_test

import (
	"fmt"
	"testing"
)

func BenchmarkPage(b *testing.B) {
	for _, format := range []string{"binary", "text"} {
		for _, rows := range []int{0, 1, 10, 1000} {
			b.Run(fmt.Sprintf("%s/%d", format, rows), func(b *testing.B) {
				cols, row := messageColumns(binaryFmt), sized(200)
				if format == "text" {
					cols = messageColumns(textFmt)
					row = textRow()
					row[colData], row[colMetadata] = sized(200)[colData], nil
				}
				b.ReportAllocs()
				for b.Loop() {
					scanPage(cols, rows, row)
				}
			})
		}
	}
}
