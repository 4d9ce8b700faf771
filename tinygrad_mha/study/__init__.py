"""For those who study backpropagation: pictures of graphs, the explorer, the museum, the book."""
