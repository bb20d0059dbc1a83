"""From bytes to tensors: pictures, folders, zips, copies, the split."""
