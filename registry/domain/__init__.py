"""What an adapter, a version, a move and a token are: values and interfaces, without IO."""
