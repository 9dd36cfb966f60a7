package scan

import (
	"fmt"
	"slices"
	"strings"
)

const (
	colID = iota
	colStream
	colType
	colPosition
	colGlobalPosition
	colData
	colMetadata
	colTime
	numColumns
)

const (
	oidInt8      = 20
	oidText      = 25
	oidJSON      = 114
	oidVarchar   = 1043
	oidTimestamp = 1114
	oidUUID      = 2950
	oidJSONB     = 3802
)

const (
	textFormat   = 0
	binaryFormat = 1
)

// columns accepts more types than Message DB declares (varchar for id, data and
// metadata), because a query may cast them and newer servers may change them.
var columns = [numColumns]struct {
	name     string
	types    []uint32
	nullable bool
}{
	colID:             {"id", []uint32{oidVarchar, oidText, oidUUID}, false},
	colStream:         {"stream_name", []uint32{oidVarchar, oidText}, false},
	colType:           {"type", []uint32{oidVarchar, oidText}, false},
	colPosition:       {"position", []uint32{oidInt8}, false},
	colGlobalPosition: {"global_position", []uint32{oidInt8}, false},
	colData:           {"data", []uint32{oidVarchar, oidText, oidJSON, oidJSONB}, true},
	colMetadata:       {"metadata", []uint32{oidVarchar, oidText, oidJSON, oidJSONB}, true},
	colTime:           {"time", []uint32{oidTimestamp}, false},
}

var typeNames = map[uint32]string{
	oidInt8:      "int8",
	oidText:      "text",
	oidJSON:      "json",
	oidVarchar:   "varchar",
	oidTimestamp: "timestamp",
	oidUUID:      "uuid",
	oidJSONB:     "jsonb",
}

// hasBinaryForm reports whether a type's binary format differs from its text.
func hasBinaryForm(oid uint32) bool {
	switch oid {
	case oidText, oidVarchar, oidJSON:
		return false
	}
	return true
}

func checkCount(n int) error {
	if n == numColumns {
		return nil
	}
	names := make([]string, numColumns)
	for i, c := range columns {
		names[i] = c.name
	}
	return fmt.Errorf("%d columns, want %d: %s", n, numColumns, strings.Join(names, ", "))
}

func checkColumn(i int, name string, oid uint32, format int16) error {
	if i < 0 || i >= numColumns {
		return fmt.Errorf("column %q at place %d, want %d columns", name, i+1, numColumns)
	}
	c := &columns[i]
	// position and global_position have the same type, so the name is checked too.
	if name != c.name {
		return fmt.Errorf("column %q at place %d, want column %q", name, i+1, c.name)
	}
	if !slices.Contains(c.types, oid) {
		allowed := make([]string, len(c.types))
		for i, t := range c.types {
			allowed[i] = typeName(t)
		}
		return fmt.Errorf("column %q has type %s, want %s", c.name, typeName(oid), strings.Join(allowed, " or "))
	}
	if format != textFormat && format != binaryFormat {
		return fmt.Errorf("column %q has unknown format code %d", c.name, format)
	}
	return nil
}

// malformed reports the length of v and nothing else of it: the content of a message
// must not appear in logs.
func (p *Page) malformed(i int, v []byte) error {
	if v == nil {
		return fmt.Errorf("column %q is NULL", columns[i].name)
	}
	format := "text"
	if p.binary[i] {
		format = "binary"
	}
	return fmt.Errorf("column %q: malformed %s value of type %s (%d bytes)", columns[i].name, format, typeName(p.types[i]), len(v))
}

func typeName(oid uint32) string {
	if name, ok := typeNames[oid]; ok {
		return fmt.Sprintf("%s (oid %d)", name, oid)
	}
	return fmt.Sprintf("oid %d", oid)
}
