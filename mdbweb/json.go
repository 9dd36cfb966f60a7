package mdbweb

import (
	"bytes"
	"encoding/json"
	"errors"
)

const (
	// maxNodes and maxDepth limit what is shown as a tree. Browsers limit the depth of a page.
	maxNodes = 5000
	maxDepth = 40
	// openDepth and openSize say what is unfolded first.
	openDepth = 3
	openSize  = 40
)

// A node is a JSON value with the key that it has in its object.
type node struct {
	Key      string
	Keyed    bool
	Kind     string // object, array, string, number, literal
	Text     string // of a value that has no children
	Children []*node
	Open     bool
	Last     bool // no comma follows
}

// Container reports whether the node can be folded.
func (n *node) Container() bool { return n.Kind == "object" || n.Kind == "array" }

var errTooMuch = errors.New("too much for a tree")

// tree returns JSON as a tree in the order of its keys, or nil if there is too much of it.
func tree(raw json.RawMessage) *node {
	if raw == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	left := maxNodes
	root, err := value(d, 0, &left)
	if err != nil {
		return nil
	}
	root.Last = true
	return root
}

func value(d *json.Decoder, depth int, left *int) (*node, error) {
	if *left--; *left < 0 || depth > maxDepth {
		return nil, errTooMuch
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	n := &node{Open: depth < openDepth}
	switch t := token.(type) {
	case json.Delim:
		n.Kind = map[json.Delim]string{'{': "object", '[': "array"}[t]
		for d.More() {
			var key string
			if n.Kind == "object" {
				token, err := d.Token()
				if err != nil {
					return nil, err
				}
				key, _ = token.(string)
			}
			child, err := value(d, depth+1, left)
			if err != nil {
				return nil, err
			}
			child.Key, child.Keyed = key, n.Kind == "object"
			n.Children = append(n.Children, child)
		}
		if _, err := d.Token(); err != nil {
			return nil, err
		}
		if len(n.Children) > 0 {
			n.Children[len(n.Children)-1].Last = true
		}
		n.Open = n.Open && (depth == 0 || len(n.Children) <= openSize)
	case string:
		n.Kind, n.Text = "string", quoted(t)
	case json.Number:
		n.Kind, n.Text = "number", t.String()
	case bool:
		n.Kind, n.Text = "literal", map[bool]string{true: "true", false: "false"}[t]
	default:
		n.Kind, n.Text = "literal", "null"
	}
	return n, nil
}

// quoted returns a text as JSON, with its characters as they are.
func quoted(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // the template escapes it
	if err := e.Encode(text); err != nil {
		return text
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// indented returns JSON for people.
func indented(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return string(raw)
	}
	return b.String()
}
