package archive

import (
	"github.com/messagedb-go/messagedb/internal/jsonl"
	"github.com/messagedb-go/messagedb/mdb"
)

// AppendMessage appends the line of a message, with its end, and returns the extended slice. A program that archives by a
// subscription writes such lines. [Import] reads them.
func AppendMessage(b []byte, m *mdb.Message) []byte { return jsonl.Append(b, m) }
